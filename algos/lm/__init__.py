"""Language models in MLX: from loading one to sampling from it and scoring what it wrote."""
