"""What `wfm` can do: one entry a verb, one file a verb.

Each verb's module owns a frozen `Settings` dataclass and `run(settings) -> int`, the exit code. This table imports none of
them, so that `wfm --help` is quick; cli.py builds the settings from conf/<config>.yaml and the command line.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Verb:
    """How a verb is called, explained and found."""

    words: str  # as typed after `wfm`
    line: str  # what it does, one line
    module: str  # under wfm_ar.verbs; its config is conf/<module>.yaml
    examples: tuple[str, ...] = ()
    literal: tuple[str, ...] = ()  # keys whose values are words or paths: spaces, commas and brackets need no quoting
    lists: tuple[str, ...] = ()  # keys whose values are lists: `a,b` and `a` are what `[a,b]` and `[a]` are
    positional: str = ""  # key that a bare argument stands for
    keeps_folder: bool = False  # hydra makes an output folder and keeps the config in it
    groups: tuple[str, ...] = ()  # config groups the user chooses from


VERBS: tuple[Verb, ...] = (
    Verb(
        words="demo",
        line="roll the shipped world out four ways and measure it against the truth (start here)",
        module="demo",
        examples=("wfm demo", "wfm demo out=outputs/mine episodes=2 overwrite=true"),
        literal=("world", "data", "out"),
    ),
    Verb(
        words="samples",
        line="write a recorded episode that comes with a world as the files that other commands take",
        module="samples",
        examples=("wfm samples out=samples", "wfm samples world=tabletop episode=000056 out=other"),
        literal=("world", "episode", "out"),
    ),
    Verb(
        words="generate",
        line="imagine a clip from a video, a picture, text, actions, or nothing",
        module="generate",
        examples=(
            'wfm generate world=tabletop text="push the red cube left" out=push.mp4',
            'wfm generate world=tabletop video=in.mp4 text="push the red cube left" frames=49 seed=0 out=out.mp4',
            "wfm generate world=tabletop video=in.mp4 actions=a.npy out=driven.mp4",
            "wfm generate world=tabletop batch=prompts.jsonl out=clips",
            "wfm generate world=tabletop batch=prompts.jsonl save=lerobot out=data/imagined",
        ),
        literal=("world", "video", "image", "crop", "text", "actions", "batch", "out"),
        lists=("offload", "int8"),
    ),
    Verb(
        words="plan",
        line="find the actions that lead from one picture to another, by trying them out in the world",
        module="plan",
        examples=(
            "wfm plan world=tabletop image=now.png goal=wanted.png out=plan.mp4",
            'wfm plan world=tabletop image=now.png goal=wanted.png text="push the red cube left" samples=64 out=plan.mp4',
            "wfm plan world=tabletop episode=000053 out=plan.mp4",
        ),
        literal=("world", "image", "goal", "data", "crop", "text", "out"),
    ),
    Verb(
        words="play",
        line="a world in the browser: drive it, prompt it, rewind, branch and record",
        module="play",
        examples=("wfm play world=tabletop", "wfm play world=tabletop data=data/tabletop port=0 open=false"),
        literal=("world", "data", "camera", "out"),
    ),
    Verb(
        words="train",
        line="train the tokenizer, the world model, the diffusion decoder, or all three",
        module="train",
        examples=(
            "wfm data make episodes=40 frames=17 out=data/smoke && wfm train stage=all experiment=smoke",
            "wfm train experiment=robot name=mine data=path/to/a/lerobot/set budget=2h",
            "wfm train stage=all experiment=clips name=mine data=path/to/a/folder/of/mp4s",
            "wfm train stage=all experiment=clips name=mine data=path/to/a/lerobot/set camera=tile",
            "wfm train stage=video_tokenizer experiment=tabletop data=data/tabletop",
            "wfm train stage=world_model experiment=tabletop data=data/tabletop resume=auto",
            "wfm train -m stage=world_model experiment=tabletop data=data/tabletop optimizer.lr=1e-3,3e-4",
        ),
        literal=("data", "camera", "crop", "run", "resume", "init"),
        keeps_folder=True,
        groups=("experiment", "model", "tokenizer", "decoder", "predictor", "inverse_dynamics"),
    ),
    Verb(
        words="evaluate",
        line="measure a world on held-out episodes: a JSON and an HTML report",
        module="evaluate",
        examples=(
            "wfm evaluate world=tabletop data=data/tabletop",
            "wfm evaluate world=runs/tabletop/world data=data/tabletop episodes=64",
        ),
        literal=("world", "data", "out"),
    ),
    Verb(
        words="data make",
        line="make a data set in a simulated world",
        module="data_make",
        examples=("wfm data make world=tabletop episodes=100 out=data/tabletop",),
        literal=("world", "out"),
    ),
    Verb(
        words="data check",
        line="check a data set: one line a defect, with file, line and remedy",
        module="data_check",
        examples=("wfm data check data/tabletop",),
        literal=("path", "crop", "sheet"),
        positional="path",
    ),
    Verb(
        words="data convert",
        line="turn a data set (LeRobot, RLDS, HDF5, videos ...) into our format, or into LeRobot v3.0",
        module="data_convert",
        examples=(
            "wfm data convert src=robot/lerobot_set out=data/mine",
            "wfm data convert src=data/mine out=data/mine_lerobot format=lerobot lossless=true",
        ),
        literal=("src", "out", "camera"),
    ),
    Verb(
        words="data stats",
        line="what a data set holds, as plots in one HTML page",
        module="data_stats",
        examples=("wfm data stats mydata", "wfm data stats mydata out=mydata.html"),
        literal=("path", "out"),
        positional="path",
    ),
    Verb(
        words="data curate",
        line="raw recordings to a clean data set: shots, still and black clips, duplicates, size, rate, captions",
        module="data_curate",
        examples=(
            "wfm data curate src=recordings out=data/clean",
            "wfm data curate src=recordings out=data/clean height=128 width=128 fps=10 captions=captions.jsonl",
            'wfm data curate src=recordings out=data/clean caption_command="python caption.py {clip}"',
        ),
        literal=("src", "out", "captions", "caption_command"),
    ),
    Verb(
        words="tokenize",
        line="turn a clip into tokens and back, or a data set into token shards",
        module="tokenize",
        examples=(
            "wfm tokenize world=tabletop video=in.mp4 out=tokens.npy",
            "wfm tokenize world=tabletop tokens=tokens.npy out=back.mp4",
            "wfm tokenize from_run=runs/mine data=mydata out=runs/mine/tokens",
        ),
        literal=("world", "from_run", "video", "tokens", "data", "crop", "out"),
    ),
    Verb(
        words="info",
        line="what a world is made of: sizes, rates, actions, hashes",
        module="info",
        examples=("wfm info tabletop", "wfm info runs/tabletop/world"),
        literal=("world",),
        positional="world",
    ),
    Verb(
        words="push",
        line="upload a world to the Hugging Face hub, with a model card made from its report",
        module="push",
        examples=(
            "wfm push world=runs/mine/world to=hf://me/mine",
            "wfm push world=runs/mine/world to=hf://me/mine@v2 report=outputs/report/report.json license=apache-2.0 private=false",
        ),
        literal=("world", "to", "report", "license", "message"),
    ),
    Verb(
        words="cosmos convert",
        line="turn downloaded NVIDIA Cosmos weights into a world folder",
        module="cosmos_convert",
        examples=(
            "wfm cosmos convert src=checkpoints out=worlds/cosmos-4b",
            "wfm cosmos convert src=checkpoints name=5b out=worlds/cosmos-5b",
        ),
        literal=("src", "out"),
    ),
    Verb(
        words="cosmos info",
        line="what a file of Cosmos weights is, and the memory it takes",
        module="cosmos_info",
        examples=("wfm cosmos info", "wfm cosmos info checkpoints/Cosmos-Predict1-4B/model.pt"),
        literal=("path",),
        positional="path",
    ),
    Verb(
        words="cosmos verify",
        line="run golden files of the published networks against ours, one line a check",
        module="cosmos_verify",
        examples=("wfm cosmos verify golden",),
        literal=("folder",),
        positional="folder",
    ),
    Verb(
        words="cosmos synth",
        line="write a release of random weights in the published layout, to try the path",
        module="cosmos_synth",
        examples=("wfm cosmos synth name=4b scale=tiny out=outputs/release",),
        literal=("out",),
    ),
    Verb(
        words="bench cosmos",
        line="speed at the published Cosmos shapes, beside that of the published code, and the memory they take on a card",
        module="bench_cosmos",
        examples=(
            "wfm bench cosmos",
            "wfm bench cosmos work=decode,published",
            "wfm bench cosmos work=memory networks=4b,decoder-7b device=cuda",
        ),
        lists=("work", "networks"),
    ),
    Verb(
        words="bench",
        line="check the kernels' numbers, then time them beside their rivals and a copy",
        module="bench",
        examples=("wfm bench", "wfm bench only=shared_prefix", "wfm bench device=cuda out=bench.json"),
        literal=("only", "out"),
    ),
)
