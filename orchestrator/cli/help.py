"""What `--help` shows: verbs by what a person is about to do, and examples that can be pasted.

Help is plain text at every depth, so that it fits narrow terminals and pipes.
"""

from __future__ import annotations

from typing import Any

SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("demo", "doctor", "up", "down"),
    "Look before you start": ("validate", "schema", "plan", "simulate", "window"),
    "Run and follow": ("submit", "apply", "ps", "describe", "why", "logs", "events", "usage"),
    "Act on what runs": ("cancel", "pause", "resume", "resize", "exec", "dump"),
    "Data, models, studies": ("data", "checkpoint", "models", "merge", "quantize", "study"),
    "Serve": ("serve", "keys"),
    "Operate": ("server", "queue", "node", "db", "cluster", "completion"),
}

_DEMO_JOB = "cluster-configs/jobs/demo.yaml"
_CLUSTER = "cluster-configs/examples/cluster.yaml"
_STUDY = "cluster-configs/studies/demo.yaml"

# Verb, or group and verb -> lines for a shell. tests/cli/test_help.py reads every one of them with the real parser.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "tide doctor",
        f"tide plan {_DEMO_JOB}",
        f"tide submit {_DEMO_JOB} --wait",
        "tide ps; tide why demo; tide logs demo -f",
    ),
    "demo": ("tide demo", "tide demo --steps 60", "tide demo serve --prompt 'import os'"),
    "doctor": ("tide doctor", "tide doctor -o json"),
    "up": ("tide up", "tide apply cluster-configs/clusters/local.yaml"),
    "down": ("tide down", "tide down --ray"),
    "validate": (f"tide validate {_DEMO_JOB}", "tide validate cluster-configs/ -o json"),
    "schema": ("tide schema TrainJob > train-job.schema.json", "tide schema --all .schemas"),
    "plan": (
        f"tide plan {_DEMO_JOB}",
        f"tide plan {_DEMO_JOB} --decide",
        f"tide plan {_STUDY} --step-seconds 0.02 --usd-per-device-hour 2.50",
        "tide plan cluster-configs/examples/train-job.yaml --device h100 --usd-per-device-hour 2.50 --mfu 0.4",
        f"tide plan {_DEMO_JOB} --cluster {_CLUSTER} --pool h100-spot",
        "tide plan --optimal --device h100 --budget-usd 5000",
        "tide plan --optimal --device a100-80gb --deadline 12h --max-devices 64 --served-tokens 2T",
        "tide plan --optimal --device h100 --params 7B",
    ),
    "simulate": (
        "tide simulate cluster-configs/scenarios/drawn.yaml",
        "tide simulate cluster-configs/scenarios/drawn.yaml --policy greedy --plot run.png",
    ),
    "window": (f"tide window list {_CLUSTER}", f"tide window next {_CLUSTER} offpeak -n 3"),
    "window list": (f"tide window list {_CLUSTER} --at 2026-12-24T21:00:00+01:00",),
    "window next": (f"tide window next {_CLUSTER} offpeak -n 3",),
    "window test": (f"tide window test {_CLUSTER} offpeak --slice 2h",),
    "window rehearse": ("tide window rehearse cluster.yaml endpoint.yaml --demand week.csv",),
    "submit": (
        f"tide submit {_DEMO_JOB}",
        f"tide submit {_DEMO_JOB} --wait",
        f"tide submit {_DEMO_JOB} --dry-run",
        f"tide submit {_DEMO_JOB} --in-process",
        "tide submit cluster-configs/endpoints/demo.yaml",
    ),
    "apply": (f"tide apply {_CLUSTER} --dry-run", "tide apply cluster-configs/clusters/local.yaml"),
    "ps": ("tide ps", "tide ps -a --state failed --state cancelled", "tide ps --queue nightly -o json"),
    "describe": ("tide describe demo", "tide describe demo.2 -o json"),
    "why": ("tide why demo", "tide why demo --what-if workers.min=2 --what-if queue=default"),
    "logs": ("tide logs demo", "tide logs demo -f", "tide logs demo --attempt 2"),
    "events": ("tide events", "tide events demo -f", "tide events --after 1200 -n 1000 -o json"),
    "usage": ("tide usage", "tide usage -o json"),
    "cancel": ("tide cancel demo",),
    "pause": ("tide pause demo",),
    "resume": ("tide resume demo",),
    "resize": ("tide resize demo 3", "tide resize demo auto"),
    "exec": (
        "tide exec demo -- nvidia-smi",
        "tide exec demo --rank 5 -- sh -c 'df -h . ; env | sort'",
        "tide exec -t demo -- bash",
    ),
    "dump": ("tide dump demo", "tide dump demo --rank 3"),
    "data": ("tide data pack src/ --name my-code --include '*.py'", "tide data ls"),
    "data pack": ("tide data pack src/ --name my-code --include '*.py' --exclude tests",),
    "data verify": ("tide data verify my-code@latest",),
    "checkpoint": ("tide checkpoint ls demo", "tide checkpoint export demo out/model"),
    "checkpoint ls": ("tide checkpoint ls demo", "tide checkpoint ls demo --storage s3://bucket/prefix"),
    "checkpoint verify": ("tide checkpoint verify demo", "tide checkpoint verify demo --step 200"),
    "checkpoint export": (
        "tide checkpoint export demo out/model",
        "tide checkpoint export demo out/universal --format universal --step 200",
    ),
    "checkpoint import": (
        "tide checkpoint import job.yaml /runs/gpt",
        "tide checkpoint import job.yaml /runs/gpt/global_step2000 --step 0",
    ),
    "checkpoint gc": ("tide checkpoint gc demo --keep 2",),
    "models": ("tide models ls", "tide models show demo-gpt@latest", "tide models alias demo-gpt@2 champion"),
    "models ls": ("tide models ls", "tide models ls demo-gpt"),
    "models show": ("tide models show demo-gpt@latest -o json",),
    "models verify": ("tide models verify demo-gpt@2",),
    "models evaluate": ("tide models evaluate demo-gpt@1 demo-gpt-int8 --on python-stdlib",),
    "models prune": (
        "tide models prune demo-gpt --sparsity 0.3 --evaluate python-stdlib",
        "tide models prune demo-gpt@2 --sparsity 0.5 --scope tensor --keep 'embedding.*' --as demo-sparse",
    ),
    "merge": ("tide merge merge.yaml --dry-run", "tide merge merge.yaml --evaluate python-stdlib"),
    "quantize": (
        "tide quantize demo-gpt --bits 8 --evaluate python-stdlib",
        "tide quantize demo-gpt@champion --bits 4 --group 64 --keep 'embedding.*' --as demo-small",
    ),
    "models alias": ("tide models alias demo-gpt@2 champion", "tide models alias demo-gpt champion --remove"),
    "study": (
        f"tide study run {_STUDY}",
        "tide study status demo-rate",
        "tide study promote demo-rate --to best.yaml",
    ),
    "study run": (f"tide study run {_STUDY} --usd-per-device-hour 2.50",),
    "study resume": ("tide study resume demo-rate",),
    "study status": ("tide study status demo-rate", "tide study status demo-rate -o json"),
    "study stop": ("tide study stop demo-rate --wait 60",),
    "study best": ("tide study best demo-rate",),
    "study compare": ("tide study compare demo-rate", "tide study compare demo-rate t0003 t0007"),
    "study export": ("tide study export demo-rate --to out/",),
    "study promote": ("tide study promote demo-rate --to best.yaml",),
    "serve": ("tide serve cluster-configs/endpoints/demo.yaml",),
    "keys": ("tide keys create --tenant research --role operator --expires 90d", "tide keys ls"),
    "keys create": (
        "tide keys create --tenant research --role operator --expires 90d",
        "tide keys create keys.json --tenant shop --tier interactive",
    ),
    "keys ls": ("tide keys ls", "tide keys ls keys.json"),
    "keys revoke": ("tide keys revoke k1a2b3c4", "tide keys revoke keys.json k1a2b3c4"),
    "server": (
        "tide server",
        "tide server --rehearse --cluster cluster-configs/clusters/local.yaml",
        "tide server --listen 0.0.0.0:8642 --tls-cert cert.pem --tls-key key.pem",
    ),
    "server stop": ("tide server stop", "tide server stop --ray"),
    "server status": ("tide server status", "tide server status -o json"),
    "queue": ("tide queue ls", "tide queue hold nightly", "tide queue leases --pool h100-spot"),
    "queue leases": ("tide queue leases --pool h100-spot",),
    "node": ("tide node ls", "tide node hold node-7 --for 2h --reason 'noisy fan'", "tide node release node-7"),
    "node hold": ("tide node hold node-7 --for 2h --reason 'noisy fan'",),
    "db": ("tide db backup /backup/tide.db", "tide db check --url sqlite:////backup/tide.db"),
    "db upgrade": ("tide db upgrade",),
    "db check": ("tide db check", "tide db check --url sqlite:////backup/tide.db"),
    "db backup": ("tide db backup /backup/tide.db",),
    "cluster": ("tide cluster replay nodes.csv --job cluster-configs/jobs/replay.yaml",),
    "cluster replay": ("tide cluster replay nodes.csv --job cluster-configs/jobs/replay.yaml --for 30m --speed 20",),
    "completion": ('eval "$(tide completion bash)"', "tide completion fish | source"),
}

_WORDS = {"Path": "PATH", "int": "N", "float": "NUMBER", "str": "TEXT"}


def finish(command: Any, path: str) -> Any:
    """`command`, and all below it, with plain help that ends in examples."""
    command.rich_markup_mode = None
    command.epilog = epilog(path)
    for param in command.params:
        param.metavar = param.metavar or _metavar(param)
    for name, below in getattr(command, "commands", {}).items():
        finish(below, f"{path} {name}")
    return command


def _metavar(param: Any) -> str | None:
    """FILE for an argument, TEXT or N for an option; None where the values themselves are shown."""
    described = getattr(param, "type_descriptor", None)
    if described is None or described.is_choice or getattr(param, "is_flag", False):
        return None
    if param.param_type_name == "argument":
        param.display_type_rich = lambda ctx: None  # FILE says as much as FILE <path>
        return str(param.name).upper().replace("_", "-")
    return next((word for kind, word in _WORDS.items() if kind in str(described.annotation)), None)


def epilog(path: str) -> str | None:
    """The examples of a verb (`data pack`), or of `tide` itself (empty), as the end of its help."""
    examples = EXAMPLES.get(path, ())
    # The mark keeps a formatter from filling the lines up.
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples))) if examples else None
