"""What the notebooks train: `demo.py` with half the pixels and half the width.

    python -m data_pipelines.build --dataset=synthetic --sequences=16,4 \\
        --output=data/notebook
    python main.py --config=configs/notebook.py:backbone --workdir=runs/notebook/backbone
    python main.py --config=configs/notebook.py:tdmi     --workdir=runs/notebook/tdmi

Rows are `backbone` and those of `ablations.py`. Enough to see every part at work, too
little to compare methods.
"""

from configs import ablations, demo


def get_config(row="tdmi"):
    """The backbone of `demo.py` or a row of `ablations.py`, smaller."""
    is_backbone = row == "backbone"
    config = demo.get_config(row) if is_backbone else ablations.get_config(row)
    config.data.root = "data/notebook"
    config.data.crop_size_hw = (96, 64)
    config.model.hrnet.width = 8
    config.model.hrnet.stem_width = 8
    config.model.channels = 8
    config.model.backbone_weights = "" if is_backbone else "runs/notebook/backbone"
    config.loss.mi_hidden = 16
    config.optim.warmup_steps = 10
    config.train.log_every_steps = 50 if is_backbone else 10
    # Several passes a line, and a line every ten steps.
    config.train.log_gradient_norms = False
    config.train.save_every_steps = 1000
    config.train.num_steps = 250 if is_backbone else 60
    config.eval.num_pictures = 2
    return config
