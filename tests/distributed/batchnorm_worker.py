"""Run under torchrun: cross-replica BatchNorm on uneven shards, compared with the whole batch in float64."""

import torch
import torch.distributed as dist

from biggan.models.batchnorm import BatchNorm, set_batchnorm_group

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
shares = {1: [7], 2: [5, 2], 3: [1, 4, 2]}[size]


def forward_and_gradients(layer, x, upstream):
    x = x.clone().requires_grad_()
    out = layer(x)
    return out.detach(), *torch.autograd.grad(out, [x, layer.gain, layer.bias], upstream)


for memory_format in (torch.contiguous_format, torch.channels_last):
    torch.manual_seed(0)
    x = (torch.randn(7, 4, 5, 3, dtype=torch.float64) * 2 + 50).to(memory_format=memory_format)
    upstream = torch.randn_like(x)
    reference = torch.nn.BatchNorm2d(4, eps=1e-5).double()
    reference.gain, reference.bias_ = reference.weight, reference.bias
    layer = BatchNorm(4, 1e-5).double()
    torch.nn.init.normal_(layer.gain)
    torch.nn.init.normal_(layer.bias)
    with torch.no_grad():
        reference.weight.copy_(layer.gain)
        reference.bias.copy_(layer.bias)
    set_batchnorm_group(layer, dist.group.WORLD)
    whole = forward_and_gradients(reference, x, upstream)
    mine = [part.clone(memory_format=memory_format) for part in (x.split(shares)[rank], upstream.split(shares)[rank])]
    out, dx, dgain, dbias = forward_and_gradients(layer, *mine)
    for gradient in (dgain, dbias):  # each rank has its shard's gradient; DDP sums them
        dist.all_reduce(gradient)
    expected = whole[0].split(shares)[rank], whole[1].split(shares)[rank], whole[2], whole[3]
    for name, actual, exact in zip(("out", "dx", "dgain", "dbias"), (out, dx, dgain, dbias), expected, strict=True):
        error = (actual - exact).abs().max().item()
        assert error < 1e-10, f"{name}: {error}"
    torch.testing.assert_close(layer.running_mean, reference.running_mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.running_var, reference.running_var, rtol=0, atol=1e-10)

# bfloat16 shards under autocast keep float32 statistics of the whole batch.
layer = BatchNorm(4, 1e-5)
set_batchnorm_group(layer, dist.group.WORLD)
low = x.bfloat16()
with torch.autocast("cpu", torch.bfloat16):
    out = layer(low.split(shares)[rank])
assert out.dtype == torch.bfloat16
torch.testing.assert_close(layer.running_mean.double() * 10, low.double().mean((0, 2, 3)), rtol=1e-5, atol=0)

# A group of one process uses the statistics of its own shard.
if size == 2:
    groups = [dist.new_group([0]), dist.new_group([1])]
    layer = BatchNorm(4, 1e-5).double()
    set_batchnorm_group(layer, groups[rank])
    layer(x.split(shares)[rank])
    own = x.split(shares)[rank].mean((0, 2, 3))
    torch.testing.assert_close(layer.running_mean * 10, own, rtol=0, atol=1e-10)

    compiled_layer = BatchNorm(4, 1e-5)
    set_batchnorm_group(compiled_layer, dist.group.WORLD)
    compiled = torch.compile(lambda v: compiled_layer(v), fullgraph=True)
    share, up = x.split(shares)[rank].float(), upstream.split(shares)[rank].float()
    results = []
    for function in (compiled_layer, compiled):
        v = share.clone().requires_grad_()
        o = function(v)
        results.append((o.detach(), torch.autograd.grad(o, v, up)[0]))
    for eager_value, compiled_value in zip(*results, strict=True):
        torch.testing.assert_close(eager_value, compiled_value, rtol=1e-4, atol=1e-4)
dist.destroy_process_group()
