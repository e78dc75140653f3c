"""How MLX runs here: the BLAS, the heap, compiled functions, versions of libraries."""
