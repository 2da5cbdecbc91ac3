import pytest
import torch
from tests.methods.small import small_encoder, views

from orl.methods.byol import pair_loss
from orl.methods.orl import ORL
from orl.networks.mlp import byol_mlp


def test_orl_is_the_sum_of_three_byol_losses_with_a_predictor_each() -> None:
    torch.manual_seed(0)
    predictors = {term: byol_mlp(8, 16, 8) for term in ("global", "intra", "inter")}
    method = ORL(small_encoder(), predictors, {"global": 1.0, "intra": 0.5, "inter": 2.0}).train()
    batch = views("view_1", "view_2") | views("intra_1", "intra_2", "inter_1", "inter_2", side=64)
    losses, _ = method(batch)
    for term, prefix, weight in (("global", "view", 1.0), ("intra", "intra", 0.5), ("inter", "inter", 2.0)):
        pair = (batch[f"{prefix}_1"], batch[f"{prefix}_2"])
        expected, _ = pair_loss(method.online, method.target, predictors[term], pair)
        torch.testing.assert_close(losses[f"loss_{term}"], weight * expected)
    torch.stack(list(losses.values())).sum().backward()
    for predictor in predictors.values():
        assert all(weight.grad is not None for weight in predictor.parameters())
    assert all(weight.grad is None for weight in method.target.parameters())


def test_a_term_of_weight_zero_is_not_computed() -> None:
    predictors = {term: byol_mlp(8, 16, 8) for term in ("global", "intra", "inter")}
    method = ORL(small_encoder(), predictors, {"global": 0.0, "intra": 1.0, "inter": 0.0})
    losses, _ = method(views("intra_1", "intra_2"))
    assert list(losses) == ["loss_intra"]
    assert "global" not in method.predictors


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, -1.0, 1.0)])
def test_useless_loss_weights_are_refused(weights: tuple[float, float, float]) -> None:
    predictors = {term: byol_mlp(8, 16, 8) for term in ("global", "intra", "inter")}
    with pytest.raises(ValueError, match="loss weights must not be negative, and one must be above 0"):
        ORL(small_encoder(), predictors, dict(zip(predictors, weights)))
