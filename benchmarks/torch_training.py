"""A training step of the exported PyTorch module with this project's objective and Adam.

The peer of `benchmarks.train_step`. The objective is that of `tdpose_jax.losses` with
`mi_estimator="vclub"`, or the heatmap loss alone for a backbone. The first step's loss is
compared with ours, so that both do the same work; targets are given, ours draws them.
"""

import numpy as np
import torch

from tdpose_jax.interop.torch_template.tdmi_torch import normalize
from tdpose_jax.losses import SUFFICIENCY_PAIRS
from tdpose_jax.mutual_information import MAX_LOG_VARIANCE


class TorchTraining:
    """One module in training.

    Args:
      net: `tdmi_torch.TDMI`; all of it is trained, or all but the backbone.
      freeze_backbone: the backbone stays in eval mode without gradients.
      auxiliary: flat name -> array of `AuxiliaryNets`, or {} for the heatmap loss alone.
      loss: `config.loss`.
    """

    def __init__(self, net, freeze_backbone: bool, auxiliary: dict, loss, rates):
        self.net = net.train()
        self.frozen = freeze_backbone
        if freeze_backbone:
            net.backbone.eval().requires_grad_(False)
        self.auxiliary = {
            name: torch.nn.Parameter(torch.from_numpy(np.array(value)))
            for name, value in auxiliary.items()
        }
        self.loss_config = loss
        trained = [p for p in net.parameters() if p.requires_grad]
        self.optimizers = [torch.optim.Adam(trained, rates[0], eps=1e-8)]
        if auxiliary:
            self.optimizers.append(
                torch.optim.Adam(self.auxiliary.values(), rates[1], eps=1e-8)
            )

    def step(self, frames, targets, weight) -> float:
        """frames [B, T, 3, H, W] uint8 channels_last; targets [B, K, h, w]; -> loss."""
        loss = self.loss(normalize(frames.float() / 255), targets, weight)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    def loss(self, frames, targets, weight):
        if not self.auxiliary:
            return heatmap_loss(self.net(frames), targets, weight)
        maps, out = self.forward_with_names(frames)
        names = sorted({n for pair in SUFFICIENCY_PAIRS.values() for n in pair})
        useful, noisy = (
            standardise(out[f"motion_{which}"].mean((2, 3)))
            for which in ("useful", "noisy")
        )
        # Auxiliary networks learn from stopped features; the model through stopped ones.
        fitted = {n: self.read(n, out[n].detach(), False) for n in names}
        q_fit = self.conditional(useful.detach(), False)
        auxiliary = -log_likelihood(*q_fit, noisy.detach()).mean() + sum(
            heatmap_loss(fitted[n], targets, weight) for n in names
        )
        mean, log_variance = self.conditional(useful, True)
        error = noisy.square().mean(0) - 2 * mean * noisy.mean(0) + mean.square()
        product = -0.5 * (error * torch.exp(-log_variance) + log_variance).sum(-1)
        information = (log_likelihood(mean, log_variance, noisy) - product).mean()
        lost = sum(
            self.sufficiency(
                self.read(teacher, out[teacher], True),
                self.read(student, out[student], True),
                weight,
            )
            for teacher, student in SUFFICIENCY_PAIRS.values()
        )
        config = self.loss_config
        return (
            heatmap_loss(maps, targets, weight)
            + config.mi_weight
            * (information.clamp(min=0) + config.sufficiency_weight * lost)
            + auxiliary
        )

    def forward_with_names(self, frames):
        """`TDMI.forward`, keeping the features that the objective reads."""
        net, num_frames = self.net, frames.shape[1]
        with torch.set_grad_enabled(not self.frozen):
            features, _ = net.backbone(frames.flatten(0, 1))
        features = [f.unflatten(0, (-1, num_frames)) for f in features]
        out = {"keyframe_feature": features[3][:, num_frames // 2]}
        out["motion"] = net.temporal_difference(features)
        out["motion_useful"], out["motion_noisy"] = net.disentangle(out["motion"])
        x = torch.cat([out["motion_useful"], out["keyframe_feature"]], dim=1)
        out["aggregated"] = net.aggregate(x)
        return net.pose_head(out["aggregated"]), out

    def _dense(self, name, x, stopped):
        kernel, bias = (self.auxiliary[f"{name}.{leaf}"] for leaf in ("kernel", "bias"))
        if stopped:
            kernel, bias = kernel.detach(), bias.detach()
        return x @ kernel + bias

    def read(self, name, feature, stopped):
        """Heatmaps read off a feature of unit size by a 1x1 head."""
        size = feature.square().mean((1, 2, 3), keepdim=True)
        x = (feature * torch.rsqrt(size + 1e-6)).permute(0, 2, 3, 1)
        return self._dense(f"head_{name}", x, stopped).permute(0, 3, 1, 2)

    def conditional(self, x, stopped):
        """Mean and log variance of q."""

        def mlp(name):
            hidden = torch.relu(self._dense(f"q.{name}_hidden", x, stopped))
            return self._dense(f"q.{name}_out", hidden, stopped)

        mean = mlp("mean") + self._dense("q.mean_linear", x, stopped)
        return mean, MAX_LOG_VARIANCE * torch.tanh(mlp("log_variance"))

    def sufficiency(self, teacher, student, weight):
        temperature = self.loss_config.softmax_temperature
        log_p, log_q = (
            torch.log_softmax(maps.flatten(2) / temperature, -1)
            for maps in (teacher.detach(), student)
        )
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        return (kl * weight).sum() / weight.sum().clamp(min=1)


def heatmap_loss(maps, targets, weight):
    return ((maps - targets) * weight[:, :, None, None]).square().mean()


def standardise(x):
    mean = x.mean(0)
    return (x - mean) * torch.rsqrt((x - mean).square().mean(0) + 1e-6)


def log_likelihood(mean, log_variance, z):
    error = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (error + log_variance).sum(-1)
