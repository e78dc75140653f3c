"""Operations of a transformer that MLX computes slowly on CPUs, and attention to shared prompts."""
