"""TDMI for video pose estimation in PyTorch: the whole model in one file.

Feng et al., "Mutual Information-Based Temporal Difference Learning for Human Pose
Estimation in Video", CVPR 2023. Needs torch alone; torchvision's deformable convolution
is used when it is there.

    import torch, tdmi_torch
    model = tdmi_torch.load("model.safetensors").to("cpu", memory_format=torch.channels_last)
    crops = torch.rand(1, 5, 3, 384, 288)  # RGB in 0..1, time order, keyframe in the middle
    with torch.inference_mode():
        heatmaps = model(tdmi_torch.normalize(crops))  # [1, K, 96, 72]

A joint is at 4 times its peak's position, in pixels of the crop. Tensors of the HRNet
part, without `backbone.`, carry the names of the official HRNet class.
"""

import json
import struct

import torch
import torch.nn.functional as F
from torch import nn

try:
    from torchvision.ops import deform_conv2d as _torchvision_deform_conv2d
except (ImportError, RuntimeError):  # absent, or built for another torch
    _torchvision_deform_conv2d = None


def normalize(frames):
    """RGB in 0..1, [..., 3, H, W] -> ImageNet's mean 0 and deviation 1."""
    mean = frames.new_tensor([0.485, 0.456, 0.406])[:, None, None]
    std = frames.new_tensor([0.229, 0.224, 0.225])[:, None, None]
    return (frames - mean) / std


def load(path):
    """Builds the model a `.safetensors` file describes and fills it, in eval mode."""
    tensors, metadata = read_safetensors(path)
    model = TDMI(**json.loads(metadata["model"]))
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def read_safetensors(path):
    """({name: tensor}, metadata) of a safetensors file: a JSON header, then raw bytes."""
    dtypes = {"F32": torch.float32, "I64": torch.int64}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        dtype, (start, end) = dtypes[entry["dtype"]], entry["data_offsets"]
        count = (end - start) // dtype.itemsize
        flat = torch.frombuffer(data, dtype=dtype, count=count, offset=start)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


# --- Building blocks ------------------------------------------------------------------


def conv(inputs, outputs, kernel_size=3, stride=1, dilation=1, groups=1, bias=False):
    """A convolution that keeps the size, but for its stride."""
    padding = dilation * (kernel_size - 1) // 2
    return nn.Conv2d(
        inputs, outputs, kernel_size, stride, padding, dilation, groups, bias=bias
    )


def conv_norm(inputs, outputs, kernel_size=3, stride=1, relu=True):
    """Convolution, BatchNorm and, if asked for, ReLU."""
    layers = [conv(inputs, outputs, kernel_size, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs, features):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, features), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features), nn.BatchNorm2d(features)
        if inputs != features:
            self.downsample = conv_norm(inputs, features, 1, relu=False)

    def forward(self, x):
        """[N, inputs, h, w] -> [N, features, h, w]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(y + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; four times `features` come out."""

    expansion = 4

    def __init__(self, inputs, features):
        super().__init__()
        outputs = 4 * features
        self.conv1, self.bn1 = conv(inputs, features, 1), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, outputs, 1), nn.BatchNorm2d(outputs)
        if inputs != outputs:
            self.downsample = conv_norm(inputs, outputs, 1, relu=False)

    def forward(self, x):
        """[N, inputs, h, w] -> [N, 4 * features, h, w]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(y + shortcut, inplace=True)


def residual_blocks(block, inputs, features, count):
    """`count` blocks in a row; the first maps `inputs` to what the others take."""
    blocks = [block(inputs, features)]
    for _ in range(count - 1):
        blocks.append(block(features * block.expansion, features))
    return nn.Sequential(*blocks)


# --- HRNet (Sun et al., CVPR 2019) ----------------------------------------------------


class HRModule(nn.Module):
    """Parallel branches of basic blocks, then every output receives every branch."""

    def __init__(self, widths, num_blocks, outputs):
        super().__init__()
        self.branches = nn.ModuleList(
            residual_blocks(BasicBlock, width, width, num_blocks) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._resample(widths, j, i) for j in range(len(widths)))
            for i in range(outputs)
        )

    @staticmethod
    def _resample(widths, source, target):
        if source == target:
            return nn.Identity()
        if source > target:
            up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
            return nn.Sequential(
                *conv_norm(widths[source], widths[target], 1, relu=False), up
            )
        steps = []
        for step in range(target - source):
            last = step == target - source - 1
            width = widths[target] if last else widths[source]
            steps.append(conv_norm(widths[source], width, stride=2, relu=not last))
        return nn.Sequential(*steps)

    def forward(self, branches):
        """Features of each resolution -> the same resolutions, each having seen all."""
        branches = [
            branch(x) for branch, x in zip(self.branches, branches, strict=True)
        ]
        return [
            F.relu(
                sum(layer(x) for layer, x in zip(row, branches, strict=True)),
                inplace=True,
            )
            for row in self.fuse_layers
        ]


class HRNet(nn.Module):
    """[N, 3, H, W] -> (features after the four stages, heatmaps), all at stride 4."""

    def __init__(
        self,
        width=48,
        stem_width=64,
        stage1_blocks=4,
        stage_modules=(1, 4, 3),
        branch_blocks=4,
        num_keypoints=17,
    ):
        super().__init__()
        self.conv1 = conv(3, stem_width, stride=2)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.conv2 = conv(stem_width, stem_width, stride=2)
        self.bn2 = nn.BatchNorm2d(stem_width)
        self.layer1 = residual_blocks(Bottleneck, stem_width, stem_width, stage1_blocks)
        before = [4 * stem_width]
        self.feature_channels = [4 * stem_width, width, width, width]
        for stage, num_modules in enumerate(stage_modules, start=2):
            widths = [width * 2**i for i in range(stage)]
            transition = []
            for i, outputs in enumerate(widths):
                if i == len(before):
                    new = conv_norm(before[-1], outputs, stride=2)
                    transition.append(nn.Sequential(new))
                elif before[i] != outputs:
                    transition.append(conv_norm(before[i], outputs))
                else:
                    transition.append(nn.Identity())
            setattr(self, f"transition{stage - 1}", nn.ModuleList(transition))
            modules = []
            for m in range(num_modules):
                last = stage == 4 and m == num_modules - 1
                modules.append(HRModule(widths, branch_blocks, 1 if last else stage))
            setattr(self, f"stage{stage}", nn.Sequential(*modules))
            before = widths
        if num_keypoints:
            self.final_layer = conv(width, num_keypoints, 1, bias=True)

    def forward(self, x):
        """[N, 3, H, W] -> (four stage features [N, C, H/4, W/4], heatmaps or None)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        branches = [self.layer1(x)]
        features = [branches[0]]
        for stage in (2, 3, 4):
            transition = getattr(self, f"transition{stage - 1}")
            # The new branch starts from the last one that exists.
            sources = branches + [branches[-1]]
            branches = [layer(x) for layer, x in zip(transition, sources, strict=True)]
            branches = getattr(self, f"stage{stage}")(branches)
            features.append(branches[0])
        final = getattr(self, "final_layer", None)
        return features, None if final is None else final(features[3])


# --- Lite-HRNet of PP-TinyPose (Yu et al., CVPR 2021), BatchNorm folded ---------------


class Separable(nn.Module):
    """Depthwise 3x3 without activation, then 1x1."""

    def __init__(self, inputs, outputs, stride=1, relu=True):
        super().__init__()
        self.depthwise = conv(inputs, inputs, 3, stride, groups=inputs, bias=True)
        self.pointwise = conv(inputs, outputs, 1, bias=True)
        self.relu = relu

    def forward(self, x):
        """[N, inputs, h, w] -> [N, features, h / stride, w / stride]."""
        x = self.pointwise(self.depthwise(x))
        return F.relu(x, inplace=True) if self.relu else x


class ShuffleUnit(nn.Module):
    """Half of the channels pass unchanged, half go through 1x1, depthwise, 1x1."""

    def __init__(self, features):
        super().__init__()
        half = features // 2
        self.expand = conv(half, half, 1, bias=True)
        self.separable = Separable(half, half)

    def forward(self, x):
        """[N, C, h, w] -> the same shape."""
        kept, changed = x.chunk(2, dim=1)
        changed = self.separable(F.relu(self.expand(changed), inplace=True))
        return F.channel_shuffle(torch.cat([kept, changed], dim=1), 2)


class Stem(nn.Module):
    """From pixels to the first feature at a quarter of the resolution."""

    def __init__(self, features):
        super().__init__()
        half = features // 2
        self.conv = conv(3, features, stride=2, bias=True)
        self.first = Separable(half, half, stride=2)
        self.expand = conv(half, features, 1, bias=True)
        self.second = Separable(features, half, stride=2)

    def forward(self, x):
        """[N, 3, H, W] -> [N, features, H / 4, W / 4]."""
        first, second = F.relu(self.conv(x), inplace=True).chunk(2, dim=1)
        second = self.second(F.relu(self.expand(second), inplace=True))
        return F.channel_shuffle(torch.cat([self.first(first), second], dim=1), 2)


class FuseModule(nn.Module):
    """Two shuffle units on every branch, then every branch receives all the others.

    The network was trained with an in-place addition in this loop, and its effect is
    kept: branch 0 counts itself twice, and sends its fused value down, twice.
    """

    def __init__(self, widths):
        super().__init__()
        self.count = len(widths)
        for i, target in enumerate(widths):
            for unit in range(2):
                self.add_module(f"branch{i}_unit{unit}", ShuffleUnit(target))
            for j, source in enumerate(widths):
                if j > i:
                    self.add_module(f"up{j}to{i}", conv(source, target, 1, bias=True))
                for step in range(i - j):
                    last = step == i - j - 1
                    outputs = target if last else source
                    layer = Separable(source, outputs, stride=2, relu=not last)
                    self.add_module(f"down{j}to{i}_{step}", layer)

    def forward(self, branches):
        """Features of each resolution -> the same resolutions, each having seen all."""
        layers = self._modules
        branches = [
            layers[f"branch{j}_unit1"](layers[f"branch{j}_unit0"](x))
            for j, x in enumerate(branches)
        ]
        fused = []
        for i in range(self.count):
            total = branches[i] * 2 if i == 0 else branches[i]
            for j, x in enumerate(branches):
                if j > i:
                    x = layers[f"up{j}to{i}"](x)
                    total = total + F.interpolate(x, scale_factor=2 ** (j - i))
                elif j < i:
                    x = fused[0] if j == 0 else x
                    for step in range(i - j):
                        x = layers[f"down{j}to{i}_{step}"](x)
                    total = total + (2 * x if j == 0 else x)
            fused.append(total)
        return [F.relu(x) for x in fused]


class LiteHRNet(nn.Module):
    """[N, 3, H, W] -> (features after the four stages, heatmaps), all at stride 4."""

    def __init__(
        self, width=40, stem_width=32, stage_modules=(2, 4, 2), num_keypoints=17
    ):
        super().__init__()
        widths = [width * 2**b for b in range(4)]
        self.stage_modules = stage_modules
        self.feature_channels = [stem_width, width, width, width]
        self.stem = Stem(stem_width)
        self.transition_branch0 = Separable(stem_width, widths[0])
        for b in (1, 2, 3):
            inputs = stem_width if b == 1 else widths[b - 1]
            new = Separable(inputs, widths[b], stride=2)
            self.add_module(f"transition_branch{b}", new)
        for stage, num_modules in enumerate(stage_modules, start=2):
            for m in range(num_modules):
                self.add_module(f"stage{stage}_module{m}", FuseModule(widths[:stage]))
        for b in (3, 2, 1, 0):
            self.add_module(
                f"head_branch{b}", Separable(widths[b], widths[max(b - 1, 0)])
            )
        if num_keypoints:
            self.final_layer = conv(width, num_keypoints, 1, bias=True)

    def forward(self, x):
        """[N, 3, H, W] -> (four stage features [N, C, H/4, W/4], heatmaps or None)."""
        layers = self._modules
        x = self.stem(x)
        features, branches = [x], [self.transition_branch0(x)]
        for stage, num_modules in enumerate(self.stage_modules, start=2):
            source = x if stage == 2 else branches[-1]
            branches.append(layers[f"transition_branch{stage - 1}"](source))
            for m in range(num_modules):
                branches = layers[f"stage{stage}_module{m}"](branches)
            features.append(branches[0])
        x = self.head_branch3(branches[3])
        for b in (2, 1, 0):
            size = branches[b].shape[2:]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
            x = layers[f"head_branch{b}"](branches[b] + x)
        features[3] = x
        final = getattr(self, "final_layer", None)
        return features, None if final is None else final(x)


# --- Temporal modules -----------------------------------------------------------------


def deform_conv2d(x, offsets, modulation, weight, dilation):
    """Modulated deformable 3x3 convolution (DCNv2) that keeps the size.

    offsets [N, groups * 9 * 2, h, w] in (y, x) pixels, modulation [N, groups * 9, h, w].
    """
    if _torchvision_deform_conv2d is not None and not torch.onnx.is_in_onnx_export():
        return _torchvision_deform_conv2d(
            x, offsets, weight, padding=dilation, dilation=dilation, mask=modulation
        )
    # Plain numbers but for the batch: ONNX files keep that free, and nothing else.
    c, h, w = (int(size) for size in x.shape[1:])
    groups = int(modulation.shape[1]) // 9
    step = dilation * torch.arange(-1, 2, device=x.device, dtype=x.dtype)
    rows = torch.arange(h, device=x.device, dtype=x.dtype)
    columns = torch.arange(w, device=x.device, dtype=x.dtype)
    offsets = offsets.reshape(-1, 9, 2, h, w)
    y = offsets[:, :, 0] + step.repeat_interleave(3)[:, None, None] + rows[:, None]
    x_position = offsets[:, :, 1] + step.repeat(3)[:, None, None] + columns
    # grid_sample's coordinates: -1 and 1 are the centres of the outermost pixels.
    grid = torch.stack([2 * x_position / (w - 1) - 1, 2 * y / (h - 1) - 1], dim=-1)
    samples = F.grid_sample(
        x.reshape(-1, c // groups, h, w),
        grid.reshape(-1, 9 * h, w, 2),
        align_corners=True,
    )
    samples = samples.reshape(-1, groups, c // groups, 9, h, w)
    samples = samples * modulation.reshape(-1, groups, 1, 9, h, w)
    return F.conv2d(samples.reshape(-1, c * 9, h, w), weight.reshape(-1, c * 9, 1, 1))


class ModulatedDeformConv(nn.Module):
    """DCNv2 that predicts its offsets and modulation from its own input."""

    def __init__(self, channels, groups, dilation):
        super().__init__()
        self.dilation = dilation
        self.sampling_offsets = conv(
            channels, 18 * groups, dilation=dilation, bias=True
        )
        self.modulation = conv(channels, 9 * groups, dilation=dilation, bias=True)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        for layer in (self.sampling_offsets, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        """[B, C, h, w] -> the same shape, sampled where the offsets point."""
        modulation = self.modulation(x).sigmoid()
        offsets = self.sampling_offsets(x)
        return deform_conv2d(x, offsets, modulation, self.weight, self.dilation)


class ConvNormRelu(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.bn = conv(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        """[B, C, h, w] -> the same shape."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class TemporalDifferenceEncoder(nn.Module):
    """Differences of neighbouring frames, stage by stage, fused in a cascade."""

    def __init__(self, inputs, channels, stages, blocks, cascade, deform):
        super().__init__()
        self.stages, self.cascade = tuple(stages), cascade
        for s in self.stages:
            encoder = residual_blocks(
                BasicBlock, inputs[s - 1], channels, blocks[s - 1]
            )
            self.add_module(f"stage{s}", encoder)
            self.add_module(f"deform{s}", deform())
            if cascade:
                self.add_module(f"fuse{s}", ConvNormRelu(channels))
        if not cascade:
            self.fuse = ConvNormRelu(channels)

    def forward(self, stage_features):
        """Four [B, T, C, h, w] -> motion [B, channels, h, w]."""
        layers, motion = self._modules, 0
        for s in self.stages:
            features = stage_features[s - 1]
            difference = (features[:, 1:] - features[:, :-1]).flatten(1, 2)
            motion = motion + layers[f"deform{s}"](layers[f"stage{s}"](difference))
            if self.cascade:
                motion = layers[f"fuse{s}"](motion)
        return motion if self.cascade else self.fuse(motion)


class ChannelGate(nn.Module):
    """sigmoid(MLP(mean over the map)): one weight per channel."""

    def __init__(self, channels, reduction):
        super().__init__()
        self.squeeze = nn.Linear(channels, max(channels // reduction, 1))
        self.expand = nn.Linear(self.squeeze.out_features, channels)

    def forward(self, x):
        """[B, C, h, w] -> weights [B, C, 1, 1] in 0..1."""
        gate = self.expand(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return gate[:, :, None, None]


class Disentangle(nn.Module):
    """The channels of the motion that matter for the pose, and those that do not."""

    def __init__(self, channels, reduction):
        super().__init__()
        self.useful = ChannelGate(channels, reduction)
        self.noisy = ChannelGate(channels, reduction)

    def forward(self, motion):
        """Motion [B, C, h, w] -> (useful, noisy), of the same shape."""
        return self.useful(motion) * motion, self.noisy(motion) * motion


class TDMI(nn.Module):
    """Clips [B, T, 3, H, W], normalised -> heatmaps of the middle frame [B, K, h, w].

    The arguments are the `model` section of the training configuration.
    """

    def __init__(
        self,
        backbone="hrnet",
        hrnet=None,
        num_keypoints=17,
        window_delta=2,
        channels=48,
        backbone_only=False,
        difference_stages=(1, 2, 3, 4),
        difference_blocks=(3, 3, 2, 2),
        cascade=True,
        deformable=True,
        offset_groups=12,
        deform_dilation=3,
        disentangle=True,
        gate_reduction=4,
        aggregate_blocks=3,
        spatio_temporal=False,
        spatio_temporal_blocks=2,
    ):
        super().__init__()
        options = hrnet or {}
        self.backbone = (
            HRNet(**options) if backbone == "hrnet" else LiteHRNet(**options)
        )
        self.backbone_only = backbone_only
        if backbone_only:
            return
        inputs, frames = self.backbone.feature_channels, 2 * window_delta + 1
        aggregated = inputs[3]
        if difference_stages:
            if deformable:
                deform = lambda: ModulatedDeformConv(  # noqa: E731
                    channels, offset_groups, deform_dilation
                )
            else:
                deform = lambda: conv(channels, channels, dilation=deform_dilation)  # noqa: E731
            self.temporal_difference = TemporalDifferenceEncoder(
                [(frames - 1) * c for c in inputs],
                channels,
                difference_stages,
                difference_blocks,
                cascade,
                deform,
            )
            aggregated += channels
            if disentangle:
                self.disentangle = Disentangle(channels, gate_reduction)
        if spatio_temporal:
            self.context = residual_blocks(
                BasicBlock, frames * inputs[3], channels, spatio_temporal_blocks
            )
            aggregated += channels
        self.aggregate = residual_blocks(
            BasicBlock, aggregated, channels, aggregate_blocks
        )
        self.pose_head = conv(channels, num_keypoints, bias=True)

    def forward(self, frames):
        """Normalised clips [B, T, 3, H, W] -> heatmaps [B, K, H / 4, W / 4]."""
        num_frames = int(frames.shape[1])
        if not {"temporal_difference", "context"} & self._modules.keys():
            frames, num_frames = frames[:, num_frames // 2 : num_frames // 2 + 1], 1
        features, heatmaps = self.backbone(frames.flatten(0, 1))
        if self.backbone_only:
            return heatmaps
        return self.decode_window([f.unflatten(0, (-1, num_frames)) for f in features])

    def decode_window(self, features):
        """Four stage features [B, T, C, h, w] -> heatmaps of the middle frame."""
        layers, key = self._modules, int(features[3].shape[1]) // 2
        inputs = []
        if "temporal_difference" in layers:
            motion = self.temporal_difference(features)
            if "disentangle" in layers:
                motion, _ = self.disentangle(motion)
            inputs.append(motion)
        if "context" in layers:
            inputs.append(self.context(features[3].flatten(1, 2)))
        x = torch.cat([*inputs, features[3][:, key]], dim=1)
        return self.pose_head(self.aggregate(x))
