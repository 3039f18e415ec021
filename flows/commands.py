"""The commands that flows add to the command line: name -> (where it is, what it does). Read without loading Prefect."""

COMMANDS = {
    "alerts": (
        "shardlens.flows.alerts:alerts",
        "Alert on what goes wrong with a deployment's runs: by Slack, e-mail or a webhook.",
    ),
    "demo": ("shardlens.flows.demo:demo", "Run the main job on drawn shapes: ingest, train, predict, evaluate, query."),
    "serve": (
        "shardlens.flows.serve:serve",
        "Predict a dataset on a schedule, with a Prefect server of its own where none is named.",
    ),
}
