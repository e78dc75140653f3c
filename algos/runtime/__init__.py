"""How MLX runs here: its BLAS, its memory, compiled functions, versions of libraries."""
