"""What the notebooks train: `demo.py` at half the side, in a minute on two cores.

    python -m data_pipelines.build --dataset=synthetic --sequences=16,4 \\
        --output=data/notebook
    python main.py --config=configs/notebook.py:backbone --workdir=runs/notebook/backbone
    python main.py --config=configs/notebook.py:tdmi     --workdir=runs/notebook/tdmi

Enough to see every part at work, too little to compare methods: for that, use
`ablations.py`.
"""

from configs import demo


def get_config(row="tdmi"):
    """A row of `demo.py`, smaller."""
    config = demo.get_config(row)
    config.data.root = "data/notebook"
    config.data.crop_size_hw = (96, 64)
    config.model.hrnet.width = 8
    config.model.hrnet.stem_width = 8
    config.model.channels = 8
    config.loss.mi_hidden = 16
    config.optim.warmup_steps = 10
    config.train.log_every_steps = 5
    config.train.save_every_steps = 1000
    config.train.num_steps = 250 if row == "backbone" else 60
    config.model.backbone_weights = (
        "" if row == "backbone" else "runs/notebook/backbone"
    )
    config.eval.num_pictures = 2
    return config
