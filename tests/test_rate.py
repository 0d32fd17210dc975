"""Law 4: the bits of real streams are those that a trained model estimates."""

import torch
from models import M, entropy_model, latent


def trained_model():
    """A few dozen steps on latents that hold something to learn: neighbours and slices depend on each other."""
    torch.manual_seed(3)
    model = entropy_model().train()
    network = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(network, lr=3e-3)
    for step in range(60):
        y = correlated(step, 4, 8, 8)
        optimizer.zero_grad()
        bits = sum(-p.log2().sum() for p in model(y)["likelihoods"].values())
        (bits / y.numel()).backward()
        optimizer.step()
    model.entropy_bottleneck.update(force=True, update_quantiles=True)
    return model.eval()


def correlated(seed: int, batch: int, height: int, width: int) -> torch.Tensor:
    smooth = torch.nn.functional.avg_pool2d(latent(seed, batch, 1, height, width), 3, stride=1, padding=1)
    loudness = torch.linspace(0.2, 3, M)[:, None, None]
    return loudness * (2 * smooth + latent(seed + 1000, batch, M, height, width) / 8)


def test_real_bits_are_the_estimated_bits():
    model = trained_model()
    for seed, size in [(5000, (24, 20)), (6000, (9, 13)), (7000, (1, 1))]:
        y = correlated(seed, 1, *size)
        with torch.no_grad():
            estimate = sum(-p.log2().sum().item() for p in model(y)["likelihoods"].values())
        real = 8 * sum(len(stream) for streams in model.compress(y)["strings"] for stream in streams)
        assert abs(real - estimate) <= 0.01 * estimate + 8 * 64, f"{size}: {real} real bits, {estimate:.0f} estimated"


def test_training_lowers_the_rate():
    y = correlated(5000, 1, 24, 20)
    rates = [
        sum(-p.log2().sum().item() for p in m(y)["likelihoods"].values()) for m in (entropy_model(), trained_model())
    ]
    assert rates[1] < 0.7 * rates[0]
