"""Operations of a transformer, written for CPUs where MLX is slow there."""
