"""Everything that runs on Ray, except the search.

    start.py           start Ray or connect to a cluster; the environment, the token, the end
    resources.py       choose the workers of a run or of trials from what a cluster has
    waiting.py         wait for nodes, and say what is missing
    shared_storage.py  check that all nodes see the same files
    trainer.py         training under Ray Train, the driver's side
    worker.py          training under Ray Train, a worker's side
    channel.py         the actor through which both sides communicate
    stream.py          the training samples, through Ray Data
    spread.py          one function applied to many items on actors
    helper.py          a process that does one piece of work for the driver
    logs.py            copies of the processes' logs in a run's folder
    spot.py            passes on EC2's notice that a spot instance will be reclaimed
    bare_feed.py       the sample function alone on all cores, for the benchmark
    internals.py       all uses of Ray's private parts, each with a contract and a fall-back
    agent.py           stands in for the agent that Ray starts for a node

May import `training` and what that may import; `search`, `evaluation`, `benchmark` and `app` may
import this room. Only `worker.py` imports torch, so the driver and Ray Data's tasks start fast.

What Ray does not document is used in `internals.py` only, because it may change with any version
of Ray. There, each use states its reason, is checked before use, and falls back on stock Ray.
RAYDAE_STOCK_RAY=1 turns all of them off. To add one, write a function under `@_patch` there and a
contract test for it under tests/distributed, and measure what it gains.
"""
