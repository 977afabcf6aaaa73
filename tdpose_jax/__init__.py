"""TDMI in JAX/Flax. `from tdpose_jax import PoseEstimator` loads the model's code late."""


def __getattr__(name: str):
    if name == "PoseEstimator":
        from tdpose_jax.video.estimator import PoseEstimator

        return PoseEstimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
