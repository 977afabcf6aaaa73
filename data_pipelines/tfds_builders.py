"""Our data sets under registered TFDS names: `tdpose_jhmdb` and so on.

Importing this module registers them. A folder that the build command wrote to
`DATA/tdpose_jhmdb/1.0.0` is read as it is:

    import data_pipelines.tfds_builders
    tfds.load("tdpose_jhmdb", data_dir="DATA", split="val")

Otherwise `download_and_prepare` builds it from the downloaded data set, which TFDS
calls the manual folder:

    config = tfds.download.DownloadConfig(manual_dir="JHMDB")
    tfds.load(..., download_and_prepare_kwargs={"download_config": config})

Both run the same code. Prefer the command for large sets: it can go on after being
stopped and knows worker processes, Beam, detector boxes and other window sizes.
"""

from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from data_pipelines import build_steps, tfds_metadata
from data_pipelines.build import build
from data_pipelines.build_steps import BuildOptions
from data_pipelines.manifest import MANIFEST, load_manifest
from tdpose_jax.skeleton import get_skeleton


class _PoseBuilder(FileReaderBuilder, skip_registration=True):
    """Reads shards, and makes them with `build`."""

    VERSION = tfds.core.Version(tfds_metadata.VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Set manual_dir to the folder with the data set as downloaded; "
        "data_pipelines/{posetrack,jhmdb,hieve}.py say what it must hold."
    )
    DATASET = ""
    SKELETON = "posetrack"

    def _info(self) -> tfds.core.DatasetInfo:
        # A folder built with another window is described as it is.
        folder = Path(self.data_dir)
        built = load_manifest(folder) if (folder / MANIFEST).is_file() else None
        return tfds.core.DatasetInfo(
            builder=self,
            description=tfds_metadata.DESCRIPTION,
            features=tfds_metadata.make_features(
                get_skeleton(self.SKELETON).num_keypoints,
                built["window_delta"] if built else BuildOptions.window_delta,
            ),
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        # In this process: a pool would import the caller's script again.
        manifest = build(
            BuildOptions(
                dataset=self.DATASET,
                source=Path(dl_manager.manual_dir),
                output=Path(self.data_dir),
            )
        )
        splits = [
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[shard["num_records"] for shard in split["shards"]],
                num_bytes=sum(shard["bytes"] for shard in split["shards"]),
            )
            for name, split in manifest["splits"].items()
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))


class TdposePosetrack17(_PoseBuilder):
    """PoseTrack17."""

    name = tfds_metadata.tfds_name("posetrack17")
    DATASET = "posetrack17"


class TdposePosetrack18(_PoseBuilder):
    """PoseTrack18."""

    name = tfds_metadata.tfds_name("posetrack18")
    DATASET = "posetrack18"


class TdposePosetrack21(_PoseBuilder):
    """PoseTrack21."""

    name = tfds_metadata.tfds_name("posetrack21")
    DATASET = "posetrack21"


class TdposeHieve(_PoseBuilder):
    """HiEve."""

    name = tfds_metadata.tfds_name("hieve")
    DATASET = "hieve"
    SKELETON = "hieve"


class TdposeJhmdb(_PoseBuilder):
    """JHMDB, split 1."""

    name = tfds_metadata.tfds_name("jhmdb")
    DATASET = "jhmdb"
    SKELETON = "jhmdb"


class TdposeSynthetic(_PoseBuilder):
    """The embedded data set, as `data_pipelines.synthetic` renders it."""

    name = tfds_metadata.tfds_name("synthetic")
    DATASET = "synthetic"


BUILDERS = (
    TdposePosetrack17,
    TdposePosetrack18,
    TdposePosetrack21,
    TdposeHieve,
    TdposeJhmdb,
    TdposeSynthetic,
)
assert {b.DATASET for b in BUILDERS} == set(build_steps.DATASETS)
