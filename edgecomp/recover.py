"""Stage 4, recover: trains what codes leave free, with the original net as teacher, and writes `model.safetensors`.

Codebooks, codes, row scales and all biases learn to give the original's outputs on the training split (docs/methods.md
§1): the loss is the Kullback–Leibler divergence of the class probabilities. Codes follow latent weights, which
gradients move (see `training.trainable.LearnedCodes`); `--set recover.codes=fixed` leaves them as they were fitted.

Where layers were factorized the whole net learns. Gradients explode easily within the inserted layers (Lebedev et al.
2015, §3.3): they learn more slowly, gradients are clipped, and a run that diverges goes back and on at half the rate.
What does not lower the loss on the calibration split is not kept.

With `--engine ray` every step is shared by the workers of Ray Train: each takes its part of the batch.
"""

from __future__ import annotations

import dataclasses
import shutil

from .engines import Engine
from .errors import UsageError
from .layers import checkpoint
from .pruning import stage as prune
from .records import Compressed, Model, Plan
from .training.distill import train_net
from .util import progress
from .util.files import atomic_file, sha256_file
from .util.workspace import Workspace, stage_key


def recover(
    model: Model, plan: Plan, compressed: Compressed, work: Workspace, engine: Engine | None = None
) -> Compressed:
    """Trains for `plan.recover_epochs`; without any it only writes the checkpoint.

    Args:
        engine: if it is Ray, its workers train together; else this process does, with all its threads.

    Raises:
        UsageError: training is asked for, and the model has no data.
    """
    path = work.new("model.safetensors")
    if not plan.recover_epochs:
        with progress.stage("recover", "nothing to train"), atomic_file(path) as partial:
            shutil.copyfile(compressed.checkpoint, partial)
        return compressed
    if model.data is None or not len(model.data.train):
        raise UsageError("--recover trains on the model's data, and it has none", "Give the model file a data().")
    learned = plan.recover_codes == "learned"
    key = stage_key("recover", sha256_file(compressed.checkpoint), plan.recover_epochs, plan.seed, learned)
    with progress.stage("recover", f"{plan.recover_epochs:g} epochs of {model.data.train.name}"):
        done = work.recall("recover", key)
        if done is not None:
            progress.note("cached")
            net = checkpoint.restore(prune.base(model, plan.pruning), path)
        else:
            kept = work.stages / f"recover-{key[:16]}.safetensors"
            net, note = train_net(model, compressed.net, plan.recover_epochs, plan.seed, kept, engine, learned)
            checkpoint.save(net, path)
            done = {"note": note}
            work.record("recover", key, [path], done)
            kept.unlink(missing_ok=True)
        progress.note(done["note"])
        return dataclasses.replace(compressed, net=net, checkpoint=path, notes=(*compressed.notes, done["note"]))
