"""Keyword arguments of networks that a model folder may bring: numbers that shape a network.

Other arguments of timm and torchvision name files, addresses and code (`checkpoint_path`,
`pretrained_cfg`, `weights`), and a model folder is a stranger's file: what is not known here to be
harmless is refused.
"""

from typing import Any

from fkd.errors import ConfigError

_SIZES = (
    *("img_size", "image_size", "in_chans", "num_classes", "patch_size", "window_size"),
    *("window_ratio", "window_block_ratio", "output_stride", "always_partition", "strict_img_size"),
    *("dynamic_img_size", "dynamic_img_pad", "num_heads", "num_kv_heads", "head_dim", "dims"),
    *("embed_dim", "embed_dims", "depth", "depths", "layers", "channels", "widths", "width"),
    *("mlp_ratio", "mlp_ratios", "kernel_size", "kernel_sizes", "stem_width", "stem_type"),
    *("stem_chs", "base_width", "cardinality", "groups", "width_per_group", "expand_ratio"),
    *("block_reduce_first", "avg_down", "deep_stem", "num_features", "head_hidden_size"),
    *("channel_multiplier", "depth_multiplier", "round_chs_fn", "fix_stem", "pad_type"),
    *("replace_stride_with_dilation", "num_stages", "reg_tokens", "drop_block_rate"),
)
_BEHAVIOR = (
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate"),
    *("patch_drop_rate", "attn_drop", "proj_drop", "dropout", "attention_dropout", "p"),
    *("stochastic_depth_prob", "global_pool", "class_token", "no_embed_class", "pos_embed"),
    *("pre_norm", "post_norm", "final_norm", "fc_norm", "qk_norm", "qkv_bias", "qk_scale"),
    *("init_values", "ls_init_value", "layer_scale", "layer_scale_init_value", "head_init_scale"),
    *("conv_mlp", "use_grn", "rope", "rotate", "act_layer", "norm_layer", "norm_eps", "bn_eps"),
    *("bn_momentum", "zero_init_last", "zero_init_residual", "aux_logits", "transform_input"),
    *("init_weights", "memory_efficient", "bias", "se_ratio", "use_fc", "head_bias", "weight_init"),
)
ALLOWED = frozenset(_SIZES + _BEHAVIOR)
_LONGEST = 64  # of a text, such as "avg" or "layernorm2d", and of a list


def check_arguments(arguments: Any) -> dict[str, Any]:
    """The arguments, if all of them are known and are plain values.

    Raises:
        ConfigError: an argument is unknown or could name a file, an address or code.
    """
    if not isinstance(arguments, dict):
        raise ConfigError(f"the model card has no usable kwargs ({arguments!r})")
    for name, value in arguments.items():
        if name not in ALLOWED:
            raise ConfigError(
                f"the model card has the argument {name!r}, which is not among those that only "
                "shape a network; remove it if the network can do without"
            )
        if not _is_plain(value):
            raise ConfigError(
                f"the model card's argument {name} is {value!r}: neither a number nor a short word"
            )
    return dict(arguments)


def _is_plain(value: Any) -> bool:
    """Numbers, words of letters and digits, and lists of them."""
    if isinstance(value, list):
        return len(value) <= _LONGEST and all(_is_plain(member) for member in value)
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.replace("_", "").isalnum()
    return value is None or isinstance(value, bool | int | float)
