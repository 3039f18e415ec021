"""Where stages run: in this process, or on an elastic pool of Ray actors. Knows nothing of what it runs.

- `base`: what a stage is, what an executor promises, and its settings
- `local`: this process
- `opening`: an executor, opened and closed; Ray is imported only when it is asked for
- `leases`: which worker takes which item next, and who is blamed when a worker dies; knows nothing of Ray
- `ray`: the pool of actors
- `ray_train`, `elastic`: a gang of workers on Ray Train, its restarts and its number of workers
- `cluster`, `keeper`: the Ray cluster, joined or embedded, and what must not outlive it
- `malloc`: how a worker's memory is given back
"""
