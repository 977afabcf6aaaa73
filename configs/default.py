"""Every knob of the project, and where its value comes from.

[paper] Feng et al., CVPR 2023; [group] the same group's DCPose (CVPR 2021) and FAMI-Pose
(CVPR 2022); [ours] a choice of this project where neither says. Fields without a mark
name data and weights, or say what is logged and saved.

Other configs call `get_config()` here and change a few fields, so their diff is the
file. The result is locked: assigning to a field that does not exist is an error.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Every field, as for PoseTrack17 with HRNet-W48."""
    config = ml_collections.ConfigDict()
    # One seed decides initial parameters, data order and augmentation. Not determined by
    # it: floating-point summation order on GPUs (see docs/faults.md). [ours]
    config.seed = 0

    data = config.data = ml_collections.ConfigDict()
    data.root = "data/posetrack17"  # folder that `python -m data_pipelines.build` wrote
    data.train_split = "train"
    data.eval_split = "val"  # "val_detections" if built with --boxes
    data.skeleton = "posetrack"  # posetrack, hieve, jhmdb, coco
    data.window_delta = 2  # frames each side of the keyframe [group]
    data.crop_size_hw = (384, 288)  # [paper]
    data.box_enlarge = 1.25  # [paper]
    data.box_score_threshold = 0.2  # detections below are dropped [group]
    # Augmentation, one draw per clip [group]
    data.rotation_deg = 45.0  # standard deviation, clipped at twice that
    data.rotation_probability = 0.6
    data.scale_std = 0.35  # clipped to 1 +- this
    data.flip_probability = 0.5
    data.half_body_probability = 0.3
    data.half_body_min_joints = 8  # applied when more than this many are visible
    # "uniform": upper or lower half with equal chance [ours]; "normal": [group]'s
    # `randn() < 0.5`, which prefers the upper half in 69 % of the cases.
    data.half_body_draw = "uniform"
    data.color_jitter = 0.0  # brightness/contrast/saturation range, off [group]
    # More mixes better, fewer reads more locally [ours]
    data.shuffle_segment_shards = 8
    # Records that may be skipped before the run stops [ours]
    data.max_corrupt_records = 0
    # Folder of a frozen backbone's stage features (main.py --mode=cache); "": computed
    # in every step. A cache holds so many augmented epochs. [ours]
    data.feature_cache = ""
    data.feature_cache_epochs = 1.0

    model = config.model = ml_collections.ConfigDict()
    model.backbone = "hrnet"  # hrnet [paper], tinypose [ours]
    model.backbone_weights = ""  # folder of an imported or trained backbone, or .npz
    model.freeze_backbone = True  # no gradient, statistics fixed [group]
    model.hrnet = ml_collections.ConfigDict()
    model.hrnet.width = 48  # branch widths: 1, 2, 4, 8 times this [paper]
    # The next four: HRNet of Sun et al., CVPR 2019 [paper]
    model.hrnet.stem_width = 64
    model.hrnet.stage1_blocks = 4
    model.hrnet.stage_modules = (1, 4, 3)
    model.hrnet.branch_blocks = 4
    model.hrnet.num_keypoints = 17  # of its own pretrained head: COCO's [group]
    # True: train or evaluate the backbone's own heatmaps [ours]
    model.backbone_only = False
    model.num_keypoints = 17  # of PoseTrack, two of them never annotated [group]
    model.channels = 48  # C of the motion features [paper: the backbone's width]
    model.difference_stages = (1, 2, 3, 4)  # [paper]; (): the single-frame row
    model.difference_blocks = (3, 3, 2, 2)  # [paper, figure]; stage 3 is [ours]
    model.cascade = True  # M^j = Conv(G^j + M^(j-1)) [paper]
    model.deformable = True  # DCNv2 [paper]; False: plain 3x3, same dilation
    model.offset_groups = 12  # [ours, after group]
    model.deform_dilation = 3  # [ours, after group]
    model.disentangle = True  # split motion into useful and noisy [paper]
    model.gate_reduction = 4  # [ours]
    model.aggregate_blocks = 3  # [group]
    # Aggregation's weights of motion start at zero, and its shortcut as the keyframe's
    # identity where channels allow: the single-frame row's start [ours]
    model.silent_motion = True
    model.spatio_temporal = False  # TDMI-ST [paper; details ours]
    model.spatio_temporal_blocks = 2  # [ours]
    model.dtype = "auto"  # compute type: bfloat16 on TPU and GPU, float32 on CPU [ours]

    loss = config.loss = ml_collections.ConfigDict()
    loss.heatmap_sigma = 3.0  # heatmap pixels [group]
    loss.heatmap_encoder = "integer"  # integer [group], subpixel [ours]
    loss.mi_estimator = "vclub"  # vclub [ours], heatmap_kl [group], none
    # alpha [ours]. The estimate reaches ten nats and more once q has caught up (15 after
    # `make demo`), the heatmaps' error shrinks to 0.002 and less: with 0.1 a small HRNet
    # learns no heatmaps, and on real video 1e-5 cost 0.7 points of PCK@0.05. q and the
    # noisy gate, which this term alone trains, do not mind: Adam divides by the size of
    # their gradient.
    loss.mi_weight = 1e-6
    loss.sufficiency_weight = 1.0  # beta, inside alpha [ours]; 0 drops both terms
    loss.softmax_temperature = 0.05  # of heatmap softmaxes in the KL terms [group]
    loss.mi_hidden = 64  # width of q's two networks [ours]

    optim = config.optim = ml_collections.ConfigDict()
    optim.learning_rate = 1e-4  # per `reference_batch`, linear in the batch [ours]
    optim.reference_batch = 32  # [ours]
    optim.mi_learning_rate = 1e-3  # for q and the auxiliary heads [ours]
    optim.schedule = "step"  # step [group], cosine
    optim.decay_epochs = (4, 8, 12, 16)  # [group, DCPose PT17]
    optim.decay_factor = 0.1  # [group, DCPose PT17]
    optim.warmup_steps = 0  # [ours]
    optim.weight_decay = 0.0  # > 0: AdamW [group]
    optim.max_grad_norm = 0.0  # > 0: clip by global norm [ours]

    train = config.train = ml_collections.ConfigDict()
    train.batch_size = 32  # over all devices of all processes [ours]
    train.num_epochs = 20.0  # [group]
    train.num_steps = 0  # > 0: overrides num_epochs [ours]
    train.log_every_steps = 50
    train.eval_every_steps = 0  # 0: at the end of training only
    train.save_every_steps = 500
    train.keep_checkpoints = 3  # besides the best by AP
    # Recompute backbone activations in the backward pass [ours]
    train.remat_backbone = False
    # Of every term of the loss, at each log line: costs a backward pass per term there.
    train.log_gradient_norms = False
    train.profile_steps = 0  # > 0: TensorBoard profile of that many steps
    train.compilation_cache = True  # in $XDG_CACHE_HOME/tdpose

    evaluate = config.eval = ml_collections.ConfigDict()
    evaluate.batch_size = 32  # over all devices [ours]
    evaluate.decoder = "quarter"  # quarter [group], subpixel [ours]
    evaluate.flip_test = False  # off in this lineage's PoseTrack runs [group]
    evaluate.metric = "poseval"  # poseval [group], posetrack21, pck
    evaluate.num_pictures = 8
    evaluate.head = ""  # .safetensors of temporal modules and head
    evaluate.checkpoint = "best"  # best, latest [ours]
    evaluate.backend = "jax"  # on CPUs onnxruntime, openvino, openvino_bf16 [ours]
    # >= 0: neighbouring windows of a person share crops that fit this well, which is
    # faster [ours]; 0.1 is a tenth of the crop's side. Below 0: each its own [group].
    evaluate.share_tolerance = -1.0

    return config.lock()
