"""A discrete-event simulator of a Knative service whose pods own one GPU each.

It predicts latency, cold starts and money for a scenario file before anyone pays for a GPU. Activator,
autoscaler, scaler and queue-proxy follow knative/serving 1.23; the folder's README says what of it is
reproduced and what is left out. Arrows run one way: ``window, stats, autoscaler, scaler, breaker,
activator, pods`` know no clock of their own, ``simulation`` gives them simpy's, ``results`` reads what
happened, ``cli``, ``sweep``, ``search`` and ``bench`` use it all.
"""
