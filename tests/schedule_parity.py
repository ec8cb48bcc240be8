"""Prints, as one JSON object, the rate of every step under torch's own schedulers; no checks here.

Exits with 77 when torch cannot be imported. The settings are those of schedule_parity_test.cc.
"""
import json
import sys
import warnings

try:
    import torch
    from torch.optim import lr_scheduler as schedulers
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

# The epoch-wise schedulers warn about steps that no optimizer took; none is needed for rates.
warnings.filterwarnings("ignore")


def rates(lr, steps, make_scheduler):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def linear(optimizer):
    return schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, start_factor=1 / 25, end_factor=1, total_iters=20),
            schedulers.LinearLR(optimizer, start_factor=1, end_factor=0.01, total_iters=80),
        ],
        milestones=[20],
    )


def cosine_after_warmup(optimizer):
    return schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LambdaLR(optimizer, lambda step: step / 30),
            schedulers.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.2 * 0.05),
        ],
        milestones=[30],
    )


def plateau(lr, accuracies):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=2)
    result = []
    for accuracy in accuracies:
        scheduler.step(accuracy)
        result.append(optimizer.param_groups[0]["lr"])
    return result


print(
    json.dumps(
        {
            "linear": rates(0.15, 101, linear),
            "cosine_per_epoch": rates(
                0.1, 100, lambda o: schedulers.CosineAnnealingLR(o, T_max=200)
            ),
            "cosine_beyond_t_max": rates(
                0.1, 70, lambda o: schedulers.CosineAnnealingLR(o, T_max=20, eta_min=0.001)
            ),
            "cosine_after_warmup": rates(0.2, 120, cosine_after_warmup),
            "step": rates(0.1, 100, lambda o: schedulers.StepLR(o, step_size=30)),
            "multistep": rates(
                0.1, 200, lambda o: schedulers.MultiStepLR(o, milestones=[60, 120, 160], gamma=0.2)
            ),
            "onecycle": rates(
                0.4, 97, lambda o: schedulers.OneCycleLR(o, 0.4, total_steps=97, cycle_momentum=False)
            ),
            "onecycle_early_peak": rates(
                0.4,
                64,
                lambda o: schedulers.OneCycleLR(
                    o, 0.4, total_steps=64, pct_start=0.125, cycle_momentum=False
                ),
            ),
            "plateau": plateau(0.1, json.loads(sys.argv[1])),
        }
    )
)
