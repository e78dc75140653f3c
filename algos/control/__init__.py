"""Policies for control tasks: small networks in NumPy, their training in MLX, ONNX export."""
