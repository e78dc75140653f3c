"""Language models in MLX: kernels, memory, caches, models, generation and scoring."""
