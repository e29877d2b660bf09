"""Every way of tuning: what moves, how much there is of it, and what is left in the end."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from learning_problem import JOINT, SETTINGS, Problem
from torch import Tensor

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.checkpoints import Run, load, save
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.settings import EncoderSettings
from shopcast_build.learning.training import train
from shopcast_build.learning.tuning import Tuning, start_tuning

STEPS = 20
ADDED = {"lora": "lora_", "adalora": "lora_", "prefix": "prompt_encoder", "adapter": "bottleneck"}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0], [13, 14, 15, 16, 0], [20, 21, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
WANTED = torch.nn.functional.normalize(
    torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
)

BaseOf = Callable[[str], Path]


def fresh(base_of: BaseOf, name: str) -> ItemEncoder:
    bert = load_base_model(str(base_of(name))).model
    torch.manual_seed(1)
    return ItemEncoder(bert, 8).eval()


def settings(tuning: Any, **more: Any) -> EncoderSettings:
    more = {"rank": 2, "layers": 1, "prefix_tokens": 3, "max_tokens": 16, "dropout": 0.0} | more
    return EncoderSettings(tuning=tuning, **more)


def learn(encoder: ItemEncoder, tuning: Tuning, steps: int = STEPS) -> tuple[float, float]:
    """The first and the last loss."""
    learning = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for step in range(1, steps + 1):
        loss = (encoder(IDS, MASK) - WANTED).square().sum(1).mean()
        (loss + tuning.penalty()).backward()
        optimiser.step()
        tuning.after_step(step)
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


def vectors(encoder: ItemEncoder) -> Tensor:
    with torch.no_grad():
        return encoder.eval()(IDS, MASK)


def weights(encoder: ItemEncoder) -> dict[str, Tensor]:
    """By the names of the pretrained model, whatever a tuning has put around it."""
    return {
        name.removeprefix("base_model.").replace("base_layer.", ""): p.detach().clone()
        for name, p in encoder.bert.named_parameters()
    }


@pytest.mark.parametrize("tuning", ["lora", "adalora", "prefix", "adapter"])
def test_what_is_added_is_in_the_mode_of_the_encoder(base_of: BaseOf, tuning: str) -> None:
    for training in (True, False):
        encoder = fresh(base_of, "bert").train(training)
        start_tuning(encoder, settings(tuning, dropout=0.5), STEPS)
        assert {module.training for module in encoder.modules()} == {training}


def is_intended(tuning: str, name: str) -> bool:
    if tuning in ADDED:
        return ADDED[tuning] in name
    if tuning == "top":
        return ".3." in name
    return tuning == "full"


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "gpt2", "qwen2"])
@pytest.mark.parametrize(
    "tuning", ["frozen", "top", "full", "lora", "adalora", "prefix", "adapter"]
)
def test_only_what_is_meant_to_learn_moves(base_of: BaseOf, name: str, tuning: str) -> None:
    if tuning == "prefix" and name in ("distilbert", "modernbert"):
        pytest.skip("refused: see the next test")
    encoder = fresh(base_of, name)
    projection = encoder.projection.weight.clone()
    made = start_tuning(encoder, settings(tuning), STEPS)
    before = weights(encoder)
    first, last = learn(encoder, made)
    after = weights(encoder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert last < first
    assert not torch.equal(encoder.projection.weight, projection)
    assert bool(moved) == (tuning != "frozen")
    assert all(is_intended(tuning, name) for name in moved)
    learns = {name for name, p in encoder.bert.named_parameters() if p.requires_grad}
    assert all(is_intended(tuning, name) for name in learns)
    if tuning in ADDED:
        size = sum(before[name].numel() for name in before if is_intended(tuning, name))
        assert size < 0.1 * sum(w.numel() for w in before.values())


@pytest.mark.parametrize("name", ["distilbert", "modernbert"])
def test_an_architecture_that_takes_no_prefix_is_refused(base_of: BaseOf, name: str) -> None:
    with pytest.raises(DataError, match="prefix tuning does not work") as refused:
        start_tuning(fresh(base_of, name), settings("prefix"), STEPS)
    assert "\n" not in str(refused.value)


def test_a_prefix_that_leaves_no_room_for_the_text_is_refused(base_of: BaseOf) -> None:
    fits = settings("prefix", prefix_tokens=16, max_tokens=48)
    start_tuning(fresh(base_of, "bert"), fits, STEPS)
    with pytest.raises(DataError, match="more than the 64 positions"):
        start_tuning(fresh(base_of, "bert"), fits.model_copy(update={"prefix_tokens": 17}), STEPS)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_lora_stands_beside_queries_and_values(base_of: BaseOf, name: str) -> None:
    encoder = fresh(base_of, name)
    start_tuning(encoder, settings("lora", rank=3), STEPS)
    added = sum(p.numel() for n, p in encoder.bert.named_parameters() if "lora_" in n)
    # BERT: a query and a value of 32 to 32 a layer; GPT-2: one map of 32 to 96.
    assert added == (4 * 2 * 3 * (32 + 32) if name == "bert" else 4 * 3 * (32 + 96))


@pytest.mark.parametrize("tuning", ["lora", "adalora"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2"])
def test_low_rank_weights_are_merged_and_leave_the_architecture_as_it_was(
    base_of: BaseOf, name: str, tuning: str
) -> None:
    encoder = fresh(base_of, name)
    plain, start = {n: type(m) for n, m in encoder.named_modules()}, vectors(encoder)
    made = start_tuning(encoder, settings(tuning), STEPS)
    torch.testing.assert_close(vectors(encoder), start)  # they start at nothing
    learn(encoder, made)
    unmerged = vectors(encoder)
    made.finish()
    assert {n: type(m) for n, m in encoder.named_modules()} == plain
    assert (unmerged - start).abs().max() > 1e-2
    torch.testing.assert_close(vectors(encoder), unmerged, atol=1e-5, rtol=0)


def ranks(encoder: ItemEncoder) -> list[int]:
    return [int((p != 0).sum()) for n, p in encoder.bert.named_parameters() if "lora_E" in n]


def test_adalora_takes_the_least_used_ranks_away(base_of: BaseOf) -> None:
    encoder = fresh(base_of, "bert")
    made = start_tuning(encoder, settings("adalora"), STEPS)
    learn(encoder, made, steps=STEPS // 5)
    early = ranks(encoder)
    assert sum(early) > 2 * len(early)
    encoder = fresh(base_of, "bert")
    made = start_tuning(encoder, settings("adalora"), STEPS)
    learn(encoder, made)
    assert sum(ranks(encoder)) == 2 * len(early)


def test_adalora_goes_on_from_a_state_as_if_nothing_had_happened(
    base_of: BaseOf, tmp_path: Path
) -> None:
    def go(encoder: ItemEncoder, made: Tuning, first: int, last: int) -> None:
        learning = [p for p in encoder.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(learning, lr=0.1)
        for step in range(first, last + 1):
            (encoder(IDS, MASK) - WANTED).square().sum().backward()
            optimiser.step()
            made.after_step(step)
            optimiser.zero_grad()

    whole = fresh(base_of, "bert").eval()
    go(whole, start_tuning(whole, settings("adalora"), STEPS), 1, STEPS)
    for killed_at in (STEPS // 4, STEPS - 2):  # before and after ranks are taken away for good
        encoder = fresh(base_of, "bert").eval()
        made = start_tuning(encoder, settings("adalora"), STEPS)
        go(encoder, made, 1, killed_at)
        save({"tuning": made.state(), "weights": encoder.state_dict()}, tmp_path / "state.pt")
        found = load(tmp_path / "state.pt")
        resumed = fresh(base_of, "bert").eval()
        again = start_tuning(resumed, settings("adalora"), STEPS)
        resumed.load_state_dict(found["weights"])
        again.restore(found["tuning"])
        go(resumed, again, killed_at + 1, STEPS)
        for (name, one), other in zip(
            whole.state_dict().items(), resumed.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name
        assert sum(ranks(resumed)) == sum(ranks(whole))


def test_a_penalty_pulls_adalora_towards_orthogonal_ranks(base_of: BaseOf) -> None:
    encoder = fresh(base_of, "bert")
    made = start_tuning(encoder, settings("adalora"), STEPS)
    before = torch.as_tensor(made.penalty()).item()
    learn(encoder, made)
    assert torch.as_tensor(made.penalty()).item() < before
    assert start_tuning(fresh(base_of, "bert"), settings("lora"), STEPS).penalty() == 0.0


@pytest.mark.parametrize("tuning", ["prefix", "adapter"])
def test_a_second_stage_goes_on_with_what_the_first_added(base_of: BaseOf, tuning: str) -> None:
    encoder = fresh(base_of, "bert")
    made = start_tuning(encoder, settings(tuning), STEPS)
    learn(encoder, made)
    made.finish()
    names, between = set(dict(encoder.named_parameters())), vectors(encoder)
    learn(encoder, start_tuning(encoder, settings(tuning), STEPS))
    assert set(dict(encoder.named_parameters())) == names
    assert (vectors(encoder) - between).abs().max() > 1e-3


@pytest.mark.parametrize("tuning", ["prefix", "adapter"])
def test_a_copy_has_its_own(base_of: BaseOf, tuning: str) -> None:
    encoder = fresh(base_of, "bert")
    made = start_tuning(encoder, settings(tuning), STEPS)
    other = copy.deepcopy(encoder)
    before = vectors(encoder)
    learn(encoder, made)
    assert torch.equal(vectors(other), before)


@pytest.mark.parametrize("tuning", ["prefix", "adapter"])
def test_padding_changes_nothing_in_what_was_added(base_of: BaseOf, tuning: str) -> None:
    encoder = fresh(base_of, "bert")
    learn(encoder, start_tuning(encoder, settings(tuning), STEPS))
    together = vectors(encoder)
    with torch.no_grad():
        for row, length in enumerate(MASK.sum(1).tolist()):
            alone = encoder(IDS[row : row + 1, :length], MASK[row : row + 1, :length])
            torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()


@pytest.fixture(scope="module")
def minilm() -> Any:
    return load_base_model(BUNDLED).model


@pytest.mark.parametrize("tuning", get_args(EncoderSettings.model_fields["tuning"].annotation))
def test_the_page_tells_how_many_weights_learn(minilm: Any, tuning: Any) -> None:
    encoder = ItemEncoder(copy.deepcopy(minilm), 64)
    start_tuning(encoder, EncoderSettings(tuning=tuning), 160)
    learning = sum(p.numel() for p in encoder.bert.parameters() if p.requires_grad)
    assert re.search(rf"^\| {tuning} \|[^|]*\| {learning:,} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize(
    "adaptation", get_args(EncoderSettings.model_fields["adaptation"].annotation)
)
def test_the_page_tells_the_size_of_an_adaptation(minilm: Any, adaptation: Any) -> None:
    encoder = ItemEncoder(minilm, 64, adaptation)
    size = sum(p.numel() for n, p in encoder.named_parameters() if not n.startswith("bert."))
    assert re.search(rf"^\| {adaptation} \|[^|]*\| {size:,} \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


@pytest.mark.parametrize("tuning", ["frozen", "full", "lora", "adalora", "prefix", "adapter"])
def test_training_learns_the_texts_and_leaves_their_vectors_in_place(
    problem: Problem, tuning: Any
) -> None:
    model = problem.fresh()
    before, start = problem.loss(model), model.vectors.clone()
    encoder = SETTINGS.encoder.model_copy(update={"tuning": tuning, "rank": 2, "prefix_tokens": 3})
    loss = problem.train(model, JOINT, SETTINGS.model_copy(update={"encoder": encoder}))
    assert loss < before
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4)
    assert not torch.equal(model.vectors, start)
    assert not any("lora" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        expected = model.encoder(*model.table.rows(torch.arange(1, len(model.table))))
    torch.testing.assert_close(model.vectors[1:], expected, atol=1e-5, rtol=0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("tuning", ["lora", "prefix", "adapter"])
def test_a_killed_stage_goes_on_to_the_same_vectors(
    problem: Problem, tmp_path: Path, tuning: Any
) -> None:
    encoder = SETTINGS.encoder.model_copy(update={"tuning": tuning, "rank": 2, "prefix_tokens": 3})
    chosen = SETTINGS.model_copy(update={"encoder": encoder})
    training, validation = (
        problem.batches(part) for part in (problem.training, problem.validation)
    )

    def run_stage(run: Run, progress: Any = lambda done, total: None) -> Tensor:
        model = problem.fresh()
        train(model, training, validation, JOINT, chosen, progress, run=run)
        assert not any("lora" in name for name, _ in model.named_parameters())
        return model.vectors

    def kill(done: int, total: int) -> None:
        if done == 8:
            raise Killed

    whole = run_stage(Run(tmp_path / "whole"))
    with pytest.raises(Killed):
        run_stage(Run(tmp_path / "killed"), kill)
    resumed = run_stage(Run(tmp_path / "killed", resume=True))
    torch.testing.assert_close(resumed, whole, atol=1e-6, rtol=0)
    steps: list[int] = []
    again = run_stage(Run(tmp_path / "killed", resume=True), lambda done, _: steps.append(done))
    assert not steps  # a stage that is done is taken over
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)
