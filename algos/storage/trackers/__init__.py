"""Where a training's metrics can go beside its own folder, such as TensorBoard."""
