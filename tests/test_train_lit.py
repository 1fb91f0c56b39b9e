"""`convdsl.LitNetwork` in everybody's own Trainer, with everybody's own loader."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import convdsl
from convdsl.train.lightning import pl
from convdsl.train.problem import TrainingError
from tests.train_cases import TINY, arrays

pytestmark = pytest.mark.usefixtures("quick_training")


def trainer(**options: object) -> "pl.Trainer":
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", enable_progress_bar=False, **quiet, **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", ["onecycle", "plateau", "constant"])
def test_a_loader_of_pairs_trains_it(schedule: str) -> None:
    loader = DataLoader(TensorDataset(*arrays()), batch_size=8, shuffle=True)
    lit = convdsl.LitNetwork(convdsl.compile_text(TINY), schedule=schedule, lr=0.05)
    run = trainer(max_epochs=4)
    run.fit(lit, loader, loader)
    assert run.callback_metrics["val_accuracy"] > 0.9
    assert set(run.callback_metrics) >= {"train_loss", "val_loss", "val_accuracy"}
    (found,) = run.validate(lit, loader, verbose=False)
    assert found["val_accuracy"] == pytest.approx(float(run.callback_metrics["val_accuracy"]))


def test_it_answers_with_scores_and_probabilities() -> None:
    lit = convdsl.LitNetwork(convdsl.compile_text(TINY))
    x = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    assert torch.allclose(lit.predict(x).sum(1), torch.ones(3))
    lit.eval()
    assert torch.equal(lit(x), lit(x / 255))


def test_a_module_is_taken_as_it_is() -> None:
    model = convdsl.compile_text(TINY).module()
    assert convdsl.LitNetwork(model).network is model
    with pytest.raises(TrainingError, match="compiled in"):
        convdsl.LitNetwork(model, label_smoothing=0.1)


def test_the_held_out_loss_is_without_label_smoothing() -> None:
    lit = convdsl.LitNetwork(convdsl.compile_text(TINY), label_smoothing=0.3)
    x, y = arrays(8)
    lit.network.eval()
    scores = lit(x)
    lit.validation_step((x, y), 0)
    expected = torch.nn.functional.cross_entropy(scores, y)
    assert lit._score.means(lit._score.sums())["loss"] == pytest.approx(expected.item(), abs=1e-6)
    smooth = torch.nn.functional.cross_entropy(scores, y, label_smoothing=0.3)
    assert lit.network(x, y).item() == pytest.approx(smooth.item(), abs=1e-6)
