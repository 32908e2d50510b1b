import pytest
import torch
import torchvision

from biggan.errors import InputError
from biggan.evaluation.pretrained import TorchvisionFeatures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), file)
    return network, file


@pytest.mark.numeric
@torch.no_grad()
def test_features_are_the_inputs_of_the_last_layer(resnet):
    network, file = resnet
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    extractor = TorchvisionFeatures("resnet18", file, CPU)
    extracted = extractor(images)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    # Float32 rounding over 20 layers, once channels last and once not. Other constants of normalization give 0.1.
    expected = network(normalize(images.permute(0, 3, 1, 2) / 255))
    torch.testing.assert_close(extracted.logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.fc(extracted.features), extracted.logits, rtol=1e-4, atol=1e-4)
    assert extracted.features.shape == (2, extractor.dim)
    assert extractor.identity.startswith("torchvision:resnet18 ")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121", "vit_b_32", "swin_t"])
def test_other_architectures_end_in_a_linear_layer(name, tmp_path):
    torch.save(torchvision.models.get_model(name).state_dict(), tmp_path / "w.pth")
    extractor = TorchvisionFeatures(name, tmp_path / "w.pth", CPU)
    extracted = extractor(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert extracted.features.shape == (1, extractor.dim)
    assert extracted.logits.shape == (1, 1000)


def test_bad_names_and_weights_are_refused_by_flag(resnet):
    file = resnet[1]
    with pytest.raises(InputError, match=r"^--features: .*'resnet81'.*torchvision:resnet\d+"):
        TorchvisionFeatures("resnet81", file, CPU)
    with pytest.raises(InputError, match=r"^--weights: .*resnet18.pth: .*resnet34"):
        TorchvisionFeatures("resnet34", file, CPU)
    half = file.with_name("half.pth")
    torch.save(resnet[0].half().state_dict(), half)
    with pytest.raises(InputError, match=r"^--weights: .*half.pth: .*float16.*float32"):
        TorchvisionFeatures("resnet18", half, CPU)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    with pytest.raises(InputError, match=r"^--features: .*squeezenet1_1 .*linear layer"):
        TorchvisionFeatures("squeezenet1_1", file, CPU)
