import torch

from biggan.evaluation.tensor_file import read_tensors, write_tensors


def test_what_is_damaged_or_not_there_is_as_if_it_never_was(tmp_path):
    file = tmp_path / "a" / "b.safetensors"
    assert read_tensors(file) is None
    write_tensors(file, {"x": torch.arange(3)}, {"words": [1, "two"]})
    tensors, about = read_tensors(file)
    assert tensors["x"].tolist() == [0, 1, 2]
    assert about == {"words": [1, "two"]}
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:5], b"", b"no tensors at all" * 10):
        file.write_bytes(damaged)
        assert read_tensors(file) is None
