"""Programs as text: loops, branches, collectives by axis, what XLA leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gendr_jax import sharding
from gendr_jax.plan import collectives, hlo, loops

TEXT = """\
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%wrapped (p: bf16[4,8]) -> bf16[4,32] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %inner = bf16[4,32]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={1}
}

%all-reduce-scatter (input: f32[64]) -> f32[16] {
  %input = f32[64]{0} parameter(0)
  %whole = f32[64]{0} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %cut = f32[16]{0} dynamic-slice(%whole, %zero), dynamic_slice_sizes={16}
}

%condition (state: (s32[], f32[8,8])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %limit = s32[]{:T(128)} constant(8)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (state.1: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %state.1 = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i.1, %one)
  %x.1 = f32[8,8]{1,0:T(8,128)} get-tuple-element(%state.1), index=1
  %d = f32[8,8]{1,0:T(8,128)} dot(%x.1, %x.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %moved = f32[8,8]{1,0:T(8,128)} collective-permute(%d), channel_id=3, source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}
  ROOT %out = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) tuple(%next, %moved)
}

%small (a: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} parameter(0)
}

%large (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %b.1 = f32[8]{0} all-to-all(%b), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
}

ENTRY %main.1 (p0: f32[8], p1: f32[8,8], p2: bf16[4,8], p3: f32[64]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  %p1 = f32[8,8]{1,0:T(8,128)} parameter(1)
  %p2 = bf16[4,8]{1,0} parameter(2)
  %p3 = f32[64]{0} parameter(3)
  %start = ((bf16[4,8]{1,0}), bf16[4,32]{1,0}, u32[]{:S(2)}) async-start(%p2), calls=%wrapped
  %done = bf16[4,32]{1,0} async-done(%start), calls=%wrapped
  %ag = (f32[8]{0}, f32[16]{0}) all-gather-start(%p0), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %ag.1 = f32[16]{0} all-gather-done(%ag)
  %ar = (f32[8]{0}, /*index=1*/f32[8,8]{1,0:T(8,128)}) all-reduce(%p0, %p1), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}, to_apply=%add
  %rs = f32[16]{0} fusion(%p3), kind=kCustom, calls=%all-reduce-scatter
  %self = f32[8]{0} all-reduce(%p0), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %begin = s32[]{:T(128)} constant(3)
  %copied = s32[]{:T(128)} copy(%begin)
  %init = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) tuple(%copied, %p1)
  %loop = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) while(%init), condition=%condition, body=%body
  %which = s32[] constant(1)
  %branch = f32[8]{0} conditional(%which, %p0, %p0), branch_computations={%small, %large}
  %token = token[] after-all()
  %send = (f32[64]{0:T(128)}, u32[], token[]) send(%p3, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %result = f32[8]{0} add(%p0, %branch)
}
"""  # noqa: E501
AXES = {"data": 2, "fsdp": 4}


@pytest.fixture(scope="module")
def module():
    return hlo.parse(TEXT)


def test_the_text_is_read_whole(module):
    assert module.entry == "main.1"
    assert len(module.computations) == 8
    entry = module.computations["main.1"]
    assert entry.instructions["ar"].operands == ("p0", "p1")
    assert entry.root.name == "result"
    loop = entry.instructions["loop"]
    assert loop.called == {"condition": ("condition",), "body": ("body",)}
    assert hlo.size_bytes(loop.type) == 4 + 256
    assert hlo.size_bytes("(bf16[2,3]{1,0}, pred[5], s4[4], token[])") == 12 + 5 + 2


def test_how_often_computations_run(module):
    runs = hlo.runs(module)
    assert runs.times["body"] == 5 and runs.once["body"] == 1  # 3 to 8
    assert runs.times["large"] == 1 and runs.times["small"] == 0  # the heavier branch
    assert runs.times["wrapped"] == 1  # begun once, named twice
    assert "all-reduce-scatter" in runs.fused and runs.unknown == 0


def test_a_limit_that_is_not_written_counts_once_and_is_told():
    text = TEXT.replace("%limit = s32[]{:T(128)} constant(8)", "%limit = s32[] add(%i)")
    runs = hlo.runs(hlo.parse(text))
    assert runs.times["body"] == 1 and runs.unknown == 1
    noted = text.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'
    )
    assert hlo.runs(hlo.parse(noted)).times["body"] == 9


def test_collectives_by_kind_and_axis(module):
    slices = [0, 0, 0, 0, 1, 1, 1, 1]
    found = collectives.find(module, hlo.runs(module), AXES, slices)
    rows = {
        (c.kind, c.axes, c.group, c.slices, c.dtype, c.count, c.bytes) for c in found
    }
    assert rows == {
        ("all-gather", ("fsdp",), 2, 1, "f32", 1, 64),  # -start, by its -done
        ("all-gather", ("fsdp",), 4, 1, "bf16", 1, 256),  # inside async-start
        ("all-reduce", ("data", "fsdp"), 8, 2, "f32", 1, 32 + 256),
        ("all-reduce-scatter", ("fsdp",), 4, 1, "f32", 1, 256),
        ("collective-permute", ("fsdp",), 2, 1, "f32", 5, 5 * 256),
        ("all-to-all", ("data",), 2, 2, "f32", 1, 32),
        ("dcn-all-reduce", ("dcn",), 2, 2, "f32", 1, 256),
    }
    kinds = collectives.by_kind(found)
    assert kinds["all-gather"] == {"count": 2, "bytes": 320}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}",
            [[0, 1], [2, 3]],
        ),
    ],
)
def test_every_spelling_of_groups(text, groups):
    attributes = f", channel_id=1, {text}, dimensions={{0}}"
    assert collectives.replica_groups(attributes, 4).tolist() == groups


def test_what_a_loop_adds(module):
    """Four more trips of an 8x8x8 product, a permute, a sum and a comparison."""
    flops, moved = loops.missed(module, hlo.runs(module))
    assert flops == 4 * 2 * 8**3
    assert moved == 4 * ((2 + 1) * 256 + 2 * 256 + 3 * 4 + (4 + 4 + 1))


def compiled(f, *args, mesh, out):
    with jax.set_mesh(mesh):
        places = jax.tree.map(lambda x: x.sharding, args)
        jitted = jax.jit(f, in_shardings=places, out_shardings=out)
        program = jitted.trace(*args).lower().compile()
    module = hlo.parse(program.as_text())
    runs = hlo.runs(module)
    return program, module, runs, collectives.find(module, runs, dict(mesh.shape))


def abstract(shape, dtype, mesh, *spec):
    at = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=at)


def test_a_gathered_product_on_devices():
    """A weight split 4 ways, used whole: one gather of 64 x 32 floats."""
    mesh = sharding.make_mesh("data=2,fsdp=4")
    w = abstract((64, 32), jnp.float32, mesh, "fsdp")
    x = abstract((16, 64), jnp.float32, mesh, ("data", "fsdp"))

    def gradient(w, x):
        def loss(w):
            whole = sharding.gather({"w": w}, {"w": w_at}, "float32")["w"]
            return jnp.sum(jnp.square(x @ whole))

        return jax.grad(loss)(w)

    w_at = w.sharding
    _, _, _, found = compiled(gradient, w, x, mesh=mesh, out=w_at)
    gathers = [c for c in found if c.kind == "all-gather"]
    assert [(c.axes, c.group, c.count) for c in gathers] == [(("fsdp",), 4, 1)]
    assert gathers[0].bytes == 64 * 32 * 4 and gathers[0].dtype == "f32"
    reduced = [c for c in found if c.kind in ("all-reduce", "reduce-scatter")]
    assert {axis for c in reduced for axis in c.axes} == {"data", "fsdp"}
    assert not {c.kind for c in found} - {"all-gather", "all-reduce", "reduce-scatter"}


def test_halos_of_a_convolution_are_permutes_along_space():
    mesh = sharding.make_mesh("space=4,data=2")
    x = abstract((2, 32, 8, 3), jnp.float32, mesh, "data", "space")
    w = abstract((3, 3, 3, 5), jnp.float32, mesh)

    def f(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=numbers
        )

    _, _, _, found = compiled(f, x, w, mesh=mesh, out=x.sharding)
    assert [(c.kind, c.axes, c.count) for c in found] == [
        ("collective-permute", ("space",), 2)
    ]
    assert found[0].bytes == 2 * 1 * 1 * 8 * 3 * 4  # a row above, a row below


def test_a_real_loop_counts_every_trip():
    mesh = sharding.make_mesh("data=1", jax.devices()[:1])
    x = abstract((32, 32), jnp.float32, mesh)

    def f(x):
        y, _ = jax.lax.scan(lambda h, _: (h @ x + 1, None), x, None, length=9)
        return y

    program, module, runs, _ = compiled(f, x, mesh=mesh, out=x.sharding)
    once = 2 * 32**3
    assert 9 in runs.times.values() and runs.unknown == 0
    extra, moved = loops.missed(module, runs)
    assert extra == 8 * once
    assert program.cost_analysis()["flops"] < 2 * once  # XLA's own count has one trip
    assert moved >= 8 * 3 * 32 * 32 * 4


def test_slices_of_a_long_array_are_not_counted_whole():
    mesh = sharding.make_mesh("data=1", jax.devices()[:1])
    x = abstract((64, 128), jnp.float32, mesh)
    f = lambda x: jax.lax.map(lambda row: jnp.tanh(row) * 2, x)  # noqa: E731
    _, module, runs, _ = compiled(f, x, mesh=mesh, out=x.sharding)
    _, moved = loops.missed(module, runs)
    whole = 64 * 128 * 4
    assert whole < moved < 8 * whole  # not 64 times


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_the_text_equal_those_of_the_trace(stride):
    from gendr_jax import flops

    mesh = sharding.make_mesh("data=1", jax.devices()[:1])
    x = abstract((2, 9, 8, 3), jnp.float32, mesh)
    w = abstract((3, 3, 3, 5), jnp.float32, mesh)

    def f(x, w):
        def one(total, _):
            y = jax.lax.conv_general_dilated(
                x + total,
                w,
                (stride, stride),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jnp.sum(y), None

        return jax.lax.scan(one, 0.0, None, length=3)[0]

    _, module, runs, _ = compiled(
        f, x, w, mesh=mesh, out=NamedSharding(mesh, PartitionSpec())
    )
    extra, _ = loops.missed(module, runs)
    counted = flops.count(jax.make_jaxpr(f)(*(jnp.zeros(a.shape) for a in (x, w))))
    assert extra == pytest.approx(counted.total * 2 / 3)
    sides = [np.arange(0, n + 2 - 2, stride) for n in (9, 8)]
    pixels = [
        sum(((s + k - 1 >= 0) & (s + k - 1 < n)).sum() for k in range(3))
        for s, n in zip(sides, (9, 8), strict=True)
    ]
    assert counted.total == 3 * 2 * 2 * 5 * 3 * pixels[0] * pixels[1]
