"""Networks of the paper's tables by the names in papers and by today's, without their weights."""

import pytest
import timm
import torch

from fkd.models.names import parse_model_name

PARAMETERS = {
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet50.ram_in1k": 25_557_032,
    "tf_mobilenetv3_small_075.in1k": 2_041_872,
    "tf_mobilenetv3_small_100.in1k": 2_542_856,
    "tf_mobilenetv3_large_100.in1k": 5_483_032,
    "tf_efficientnet_b0.in1k": 5_288_548,
    "fbnetc_100.rmsp_in1k": 5_572_200,
    "tf_efficientnetv2_b0.in1k": 7_139_704,
    "deit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_224": 5_717_416,
    "deit_tiny_distilled_patch16_224.fb_in1k": 5_910_800,
    "tf_efficientnet_l2.ns_jft_in1k_475": 480_309_308,
    "tf_efficientnet_l2_ns_475": 480_309_308,
    "tf_efficientnet_l2_ns": 480_309_308,
    "senet154.gluon_in1k": 115_088_984,
    "gluon_senet154": 115_088_984,
    "resnet152s.gluon_in1k": 60_316_584,
    "gluon_resnet152_v1s": 60_316_584,
    "tf_efficientnet_b4.in1k": 19_341_616,
    "tf_efficientnet_b4_ns": 19_341_616,
    "regnety_160.deit_in1k": 83_590_140,
    "resnetv2_50x1_bit": 25_549_352,
    "resnetv2_50x1_bit.goog_distilled_in1k": 25_549_352,
    "tf_efficientnet_l2.ns_jft_in1k": 480_309_308,
    "tf_efficientnet_b4.ns_jft_in1k": 19_341_616,
    "resnetv2_50x1_bit_distilled": 25_549_352,
    "resnetv2_152x2_bit_teacher": 236_335_208,
    "resnetv2_152x2_bit_teacher_384": 236_335_208,
    "sret_lt": 4_988_024,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items(), ids=PARAMETERS)
def test_a_published_network_resolves_and_has_its_size(name, parameters):
    # timm's BiT networks know their classes by their tag; all of these have ImageNet's 1,000.
    with torch.device("meta"):
        network = timm.create_model(parse_model_name(name).library_name, num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_a_former_name_says_which_weights_it_means():
    assert parse_model_name("tf_efficientnet_l2_ns_475").tag == "ns_jft_in1k_475"
    for former, current in (
        ("gluon_senet154", "senet154.gluon_in1k"),
        ("gluon_resnet152_v1s", "resnet152s.gluon_in1k"),
        ("tf_efficientnet_l2_ns", "tf_efficientnet_l2.ns_jft_in1k"),
        ("tf_efficientnet_b4_ns", "tf_efficientnet_b4.ns_jft_in1k"),
        ("resnetv2_50x1_bit_distilled", "resnetv2_50x1_bit.goog_distilled_in1k"),
        ("resnetv2_152x2_bit_teacher_384", "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384"),
        ("gluon_resnet50_v1b", "resnet50.gluon_in1k"),
    ):
        assert str(parse_model_name(former)) == current
