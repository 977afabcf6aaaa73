"""TDMI in JAX/Flax. `from tdpose_jax import PoseEstimator` loads the model's code late."""

import os

# jaxlib 0.10.2's YNN fusions on CPU: a train step on 8 simulated devices ends in a
# segmentation fault with them, and the demo's step takes 1.4 s instead of 1.1 s, its
# compilation 26 s instead of 18 s. Read when the backend starts; no other backend cares.
_YNN = "--xla_cpu_experimental_ynn_fusion_type"
if _YNN not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_YNN}=".strip()


def __getattr__(name: str):
    if name == "PoseEstimator":
        from tdpose_jax.video.estimator import PoseEstimator

        return PoseEstimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
