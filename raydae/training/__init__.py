"""Training: the sample stream, the loop, losses, optimizers and checkpoints.

Imports `core`, `images`, `noise`, `models` and `metrics`; never Ray.

    config          what a run computes: frozen dataclasses, dotted names
    schedule        which samples make which step, epoch and shard
    visits          which image is opened when
    samples         (seed, index) -> clean and noisy patch
    loop            fit(): the whole loop on one page
    learner         the network, its optimizer, and train_step(); a CUDA graph on a GPU
    losses/         one file for each loss, and the table LOSSES
    optimizers/     one file for each optimizer, and the table OPTIMIZERS
    learning_rate   the schedule of the learning rate
    ema             averaged weights
    uploads         copies of batches to a GPU
    sync_control    when the workers synchronise, and what they agree on
    context         a worker's place among the others
    worker_times    seconds that a worker waits and computes
    torch_setup     threads, determinism, precision, compilation
    validation      the scores of an epoch
    recorder        what a run writes: checkpoints, history, models
    checkpoints     folders that are whole or do not count, and TrainState
    run_folder      a run's folder: new, to continue, or to restart
    run_names       names of runs, and where they are
    model_of_run    the model file of a run
    status          how far a run is, and how it ended
    tensorboard     the history as TensorBoard events

`config`, `schedule`, `samples`, `checkpoints` and `run_folder` import no torch: the processes that
cut patches, and the driver, start fast.
"""
