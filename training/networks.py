"""The networks that can be trained, each with the same three outputs: logits, features and embedding."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from training.cnn import ConvNet
from training.configuration import ConfigurationError, near
from training.narrowing import narrow
from training.transfer import pretrained
from training.transfer.padding import with_equal_padding
from training.transfer.weights import load_weights, pretrained_weights, read

COMMON = {"kind", "dropout", "pretrained", "weights", "shapes", "freeze", "unfreeze_epoch", "frozen_layers"}
OPTIONS: dict[str, set[str]] = {
    "cnn": COMMON - {"pretrained"} | {"layers", "hidden"},
    "resnet18": COMMON | {"stem", "stem_stride", "zero_init_residual", "drop_path"},
    "resnet50": COMMON | {"stem", "stem_stride", "zero_init_residual", "drop_path"},
    "vgg16": COMMON | {"batch_norm"},
    "vit": COMMON - {"pretrained"} | {"patch_size", "embed_dim", "depth", "num_heads"},
    "timm": COMMON | {"model", "options", "drop_path"},
}


class Network(nn.Module):
    """A body that makes features of an image and an embedding of features, and a linear layer that makes logits.

    Input is a normalized batch (B, C, S, S). `any_size` says whether S may differ from the size it was built for.
    """

    any_size = True
    body: Any  # a module; each kind calls its own parts by name

    def __init__(self, body: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last map (B, F, h, w)."""
        return self._map(self._tokens(x))

    def embedding(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, D), the input of the last layer."""
        return self._pooled(self._tokens(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, classes)."""
        logits: torch.Tensor = self.head(self.dropout(self.embedding(x)))
        return logits

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body.features(x)
        return features

    def _map(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.body.pooled(tokens)
        return pooled


class _ResNet(Network):
    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        features: torch.Tensor = body.layer4(body.layer3(body.layer2(body.layer1(x))))
        return features

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(dim=(2, 3))


class _Vgg(Network):
    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body.classifier(self.body.avgpool(tokens).flatten(1))
        return scores


class _KorniaViT(Network):
    any_size = False

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.body(x)
        self.body.encoder.results.clear()  # kept by Kornia for hooks; they would hold every layer's activations
        return tokens

    def _map(self, tokens: torch.Tensor) -> torch.Tensor:
        return _grid(tokens[:, 1:])

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 0]


class _Timm(Network):
    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body.forward_features(x)
        return features

    def _map(self, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.ndim == 3:
            return _grid(tokens[:, int(getattr(self.body, "num_prefix_tokens", 0)) :])
        return tokens.permute(0, 3, 1, 2) if getattr(self.body, "output_fmt", "NCHW") == "NHWC" else tokens

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.body.forward_head(tokens, pre_logits=True)
        return pooled


def _grid(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens (B, side * side, F) as a map (B, F, side, side)."""
    side = math.isqrt(int(tokens.shape[1]))  # whole even where tracing makes a tensor of it
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], side, side)


class DroppedNorm(nn.BatchNorm2d):
    """The last norm of a residual branch, which leaves out the whole branch of some images while training.

    Stochastic depth (Huang et al. 2016, arXiv:1603.09382); parameter names stay those of the norm it replaces.
    """

    def __init__(self, width: int, drop: float) -> None:
        super().__init__(width)
        self.drop = drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torchvision.ops.stochastic_depth(super().forward(x), self.drop, "row", self.training)
        return output


def build(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    """Return the network of the configuration node `network`, with weights if it names any.

    Raises:
        ConfigurationError: an unknown kind, option or model, or weights that cannot be had.
    """
    kind = str(network.get("kind"))
    if kind not in OPTIONS:
        raise ConfigurationError(f"network.kind is {kind!r}{near(kind, list(OPTIONS))}")
    for key in network:
        if key not in OPTIONS[kind]:
            raise ConfigurationError(f"network {kind} has no option {key!r}{near(str(key), list(OPTIONS[kind]))}")
    if network.get("freeze", "none") not in ("none", "features"):
        raise ConfigurationError(f"network.freeze is {network['freeze']!r}: write none or features")
    shapes = network.get("shapes")  # of a pruned network, whose weights are its own
    if network.get("pretrained") and network.get("weights") and not shapes:
        raise ConfigurationError("network.pretrained and network.weights are both set: remove one of them")
    node = {**network, "pretrained": False} if shapes else network
    module = _BUILDERS[kind](node, classes, channels, image_size)
    narrow(module, shapes or {})
    if network.get("weights"):
        load_weights(module, str(network["weights"]))
    return module


def _cnn(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    body = ConvNet(network["layers"], network.get("hidden", ()), channels, image_size)
    return Network(body, body.width, classes, network.get("dropout", 0.0))


def _resnet(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    make = {"resnet18": torchvision.models.resnet18, "resnet50": torchvision.models.resnet50}[network["kind"]]
    body: ResNet = make(zero_init_residual=network.get("zero_init_residual", True))
    width = body.fc.in_features
    body.fc = nn.Identity()
    stem = network.get("stem", "imagenet")
    if stem == "small":
        body.conv1 = nn.Conv2d(3, 64, 3, network.get("stem_stride", 1), 1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
    elif stem != "imagenet":
        raise ConfigurationError(f"network.stem is {stem!r}: write imagenet or small")
    _drop_paths(body, network.get("drop_path", 0.0))
    model = _ResNet(body, width, classes, network.get("dropout", 0.0))
    if network.get("pretrained"):
        _load_pretrained(model, network, network["kind"])
    body.conv1 = _first_convolution(body.conv1, channels)
    return model


def _drop_paths(body: ResNet, drop_path: float) -> None:
    blocks = [m for m in body.modules() if isinstance(m, BasicBlock | Bottleneck)]
    for index, block in enumerate(blocks if drop_path else []):
        name = "bn3" if isinstance(block, Bottleneck) else "bn2"
        norm = getattr(block, name)
        dropped = DroppedNorm(norm.num_features, drop_path * (index + 1) / len(blocks))
        dropped.load_state_dict(norm.state_dict())
        setattr(block, name, dropped)


def _vgg16(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    name = "vgg16_bn" if network.get("batch_norm", True) else "vgg16"
    body = getattr(torchvision.models, name)(dropout=network.get("dropout", 0.5))
    width = body.classifier[-1].in_features
    body.classifier = body.classifier[:-1]  # its last dropout stays, so the head needs none
    model = _Vgg(body, width, classes, 0.0)
    if network.get("pretrained"):
        _load_pretrained(model, network, name)
    body.features[0] = _first_convolution(body.features[0], channels)
    return model


def _load_pretrained(model: Network, network: Mapping[str, Any], name: str) -> None:
    local = _local_weights(network)
    load_weights(model, str(local) if local else pretrained_weights(f"torchvision {name}", lambda: _hub(name)))


def _hub(name: str) -> dict[str, torch.Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    return state


def _first_convolution(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a first convolution for `channels`; grey images get the sum over the colours' weights."""
    if conv.in_channels == channels:
        return conv
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    narrowed = nn.Conv2d(channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)
    narrowed.load_state_dict({**conv.state_dict(), "weight": conv.weight.detach().sum(dim=1, keepdim=True)})
    return narrowed


def _vit(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    from kornia.models.vit import VisionTransformer

    patch = network["patch_size"]
    if image_size % patch:
        raise ConfigurationError(f"network.patch_size is {patch}, which does not divide images of {image_size} pixels")
    dropout = network.get("dropout", 0.0)
    body = VisionTransformer(
        image_size, patch, channels, network["embed_dim"], network["depth"], network["num_heads"], dropout, dropout
    )
    # Kornia draws these from N(0, 1), which drowns the patches; the paper's own code starts from 0.02.
    nn.init.trunc_normal_(body.patch_embedding.cls_token, std=0.02)
    nn.init.trunc_normal_(body.patch_embedding.positions, std=0.02)
    return _KorniaViT(body, network["embed_dim"], classes, dropout)


def _timm(network: Mapping[str, Any], classes: int, channels: int, image_size: int) -> Network:
    import timm

    name = str(network["model"])
    if not timm.is_model(name):
        raise ConfigurationError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    options = {"num_classes": 0, "in_chans": channels, "drop_path_rate": network.get("drop_path", 0.0) or None}
    options |= dict(network.get("options") or {})
    local = _local_weights(network)
    if network.get("pretrained") and local is None:
        body = pretrained_weights(f"timm {name}", lambda: _create(name, image_size, pretrained=True, **options))
    else:
        body = _create(name, image_size, pretrained=False, **options)
    with torch.no_grad():
        width = (
            body.eval()
            .forward_head(body.forward_features(torch.zeros(1, channels, image_size, image_size)), pre_logits=True)
            .shape[1]
        )
    module = _Timm(body.train(), width, classes, network.get("dropout", 0.0))
    module.any_size = not hasattr(body, "patch_embed")
    with_equal_padding(body, (channels, image_size, image_size))
    if local is not None:
        load_weights(module, pretrained.by_names_of(read(local), body.state_dict()))
    return module


def _local_weights(network: Mapping[str, Any]) -> Path | None:
    try:
        return pretrained.local_file(network)
    except pretrained.PretrainedError as error:
        raise ConfigurationError(str(error)) from error


def _create(name: str, image_size: int, **options: Any) -> Any:
    """Make a timm model, for images of this size if its architecture depends on it."""
    import timm

    options = {key: value for key, value in options.items() if value is not None}
    try:
        return timm.create_model(name, img_size=image_size, **options)  # transformers
    except TypeError:
        return timm.create_model(name, **options)


_BUILDERS = {"cnn": _cnn, "resnet18": _resnet, "resnet50": _resnet, "vgg16": _vgg16, "vit": _vit, "timm": _timm}
