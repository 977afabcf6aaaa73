"""What each part of the method does: one row per part, on the embedded data.

    make demo                                         # once: data and backbone
    python main.py --config=configs/ablations.py:rdm --workdir=runs/ablations/rdm/seed0
    python -m tdpose_jax.ablations --help             # rows x seeds, and the table

Data, frozen backbone, schedule, batch and alpha are those of `configs/demo.py:tdmi`, in
every row. So is the head: a single-frame row gives it the keyframe's feature in the place
of the motion, so that it has as many parameters as the full row's (`spatio_temporal`
with no blocks over a window of one frame does just that).

LADDER adds one part at a time, in the order of the paper. ALTERNATIVES each change one
thing of the full row, `tdmi`; `delta2` is `tdmi` under its other name. `delta3` reads the
same videos built with --window_delta=3 (`make data/demo_delta3/manifest.json`).
"""

from configs import demo

NO_MOTION = {
    "data.window_delta": 0,
    "model.difference_stages": (),
    "model.spatio_temporal": True,
    "model.spatio_temporal_blocks": 0,
}
NO_SPLIT = {"model.disentangle": False}
NO_MI = {"loss.mi_estimator": "none"}

LADDER = {
    "single_frame": {**NO_MI, **NO_SPLIT, **NO_MOTION},
    "tde_last": {**NO_MI, **NO_SPLIT, "model.difference_stages": (4,)},
    "tde_all": {**NO_MI, **NO_SPLIT, "model.cascade": False},
    "tde_cascade": {**NO_MI, **NO_SPLIT},
    "rdm": NO_MI,
    "rdm_mi": {"loss.sufficiency_weight": 0.0},
    "tdmi": {},
}
ALTERNATIVES = {
    "delta1": {"data.window_delta": 1},
    "delta2": {"data.window_delta": 2},
    "delta3": {"data.window_delta": 3, "data.root": "data/demo_delta3"},
    "plain_conv": {"model.deformable": False},
    "heatmap_kl": {"loss.mi_estimator": "heatmap_kl"},
    "tdmi_st": {"model.spatio_temporal": True},
}
ROWS = {**LADDER, **ALTERNATIVES}


def get_config(row="tdmi"):
    """The config of one row of the table."""
    if row not in ROWS:
        raise ValueError(f"configs/ablations.py:{row}: choose one of {', '.join(ROWS)}")
    config = demo.get_config("tdmi")
    # A killed run goes on from here rather than from the start.
    config.train.save_every_steps = 50
    # How hard each term pulls; as much work as two to three steps at each log line.
    config.train.log_gradient_norms = True
    # `python -m tdpose_jax.learned` pictures a finished run better.
    config.eval.num_pictures = 0
    config.update_from_flattened_dict(ROWS[row])
    return config
