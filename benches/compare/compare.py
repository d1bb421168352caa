#!/usr/bin/env python3
"""Sparsight and llama.cpp on the same checkpoint, on the CPU or a Vulkan adapter, in one run, as a Markdown table.

Each stage leaves its result in the work folder and is not repeated while that is there. Needs a C++
compiler, Python 3.11.4 or newer, and `target/release/sparsight`; everything else comes through pip.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SOURCE = "llama-cpp-python==0.3.36"  # its source package holds llama.cpp whole

CMAKE_OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF"] + [
    f"-DLLAMA_{part}=OFF"
    for part in ("CURL", "OPENSSL", "BUILD_SERVER", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP")
]

# Above this many runnable processes per core before we start, the figures say little.
IDLE = 0.1


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(*command, log=None):
    """Runs a command; what it prints goes to `log`, of which a failure shows the end."""
    command = [str(word) for word in command]
    if log is None:
        subprocess.run(command, check=True, stdout=sys.stderr)
        return
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        sys.exit(f"{end}\n{command[0]} failed with {done.returncode}; all of it is in {log}")


def output(*command, env=None):
    command = [str(word) for word in command]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


class Environment:
    """A Python environment with what requirements.txt names."""

    def __init__(self, folder):
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        requirements = (HERE / "requirements.txt").read_text()
        installed = folder / "sparsight-compare.txt"
        if installed.exists() and installed.read_text() == requirements:
            return
        say(f"installing the converter's packages into {folder}: torch for Linux is large")
        if not self.python.exists():
            venv.create(folder, with_pip=True)
        call(self.python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt")
        installed.write_text(requirements)


def make_model(env, work):
    folder = work / "model"
    # The script writes this file last.
    if not (folder / "config.json").exists():
        say("making the checkpoint")
        call(env.python, HERE / "make_model.py", folder)
    return folder


def unpack_source(env, work):
    folder = work / "llama-src"
    if not folder.exists():
        say(f"downloading {SOURCE}")
        call(env.python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python",
             SOURCE, "-d", work / "download")
        (package,) = (work / "download").glob("*.tar.gz")
        partly = work / "llama-src.partly"
        shutil.rmtree(partly, ignore_errors=True)
        with tarfile.open(package) as archive:
            for member in archive:
                _, _, path = member.name.partition("/")
                if path.startswith("vendor/llama.cpp/") and (member.isfile() or member.isdir()):
                    member.name = path.removeprefix("vendor/llama.cpp/")
                    archive.extract(member, partly, filter="data")
        partly.rename(folder)
    return folder


def build(env, work, source, jobs):
    folder = work / "llama-build"
    say("building llama-bench")
    # ninja looks for itself whether there is anything to do.
    ninja = shutil.which("ninja", path=env.bin)
    call(env.bin / "cmake", "-S", source, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
         *CMAKE_OPTIONS, log=work / "cmake.log")
    call(ninja, "-C", folder, "-j", jobs, "llama-bench", log=work / "ninja.log")
    return Path(shutil.which("llama-bench", path=folder / "bin"))


def convert(env, work, source, model):
    file = work / "model.gguf"
    if not file.exists():
        say("converting the checkpoint")
        partly = work / "partly.gguf"
        call(env.python, HERE / "to_gguf.py", source, model, partly, log=work / "convert.log")
        partly.rename(file)
    return file


def run_llama(program, gguf, options):
    """Tokens per second of every repeat, by (test, depth)."""
    backend = {}
    words = list(options.llama_option)
    if options.vulkan_backend:
        backend = {"GGML_BACKEND_PATH": str(options.vulkan_backend.resolve()), "GGML_VK_VISIBLE_DEVICES": "0"}
        words += ["-ngl", "99"]
    text = output(program, "-m", gguf, "-p", options.prompt, "-n", options.generate, "-d", options.depths,
                  "-t", options.threads, "-r", options.repeat, "-o", "json", *words, env=os.environ | backend)
    return {
        ("prefill" if test["n_prompt"] else "decode", test["n_depth"]): test["samples_ts"]
        for test in json.loads(text)
    }


def run_sparsight(program, model, options):
    """Tokens per second of every repeat, by (sparse or dense, test, depth); and the program's commit."""
    text = output(program, "bench", "--model", model, "--device", options.device, "--threads", options.threads,
                  "--prompt", options.prompt, "--generate", options.generate, "--depths", options.depths,
                  "--repeat", options.repeat, "--json")
    document = json.loads(text)
    samples = {(test["attention"], test["test"], test["depth"]): test["samples"] for test in document["results"]}
    return samples, document["commit"]


def pooled(rounds, key):
    """Mean and standard deviation over all rounds; None where no round has the test."""
    samples = [sample for results in rounds for sample in results.get(key, [])]
    if not samples:
        return None
    return statistics.fmean(samples), statistics.stdev(samples) if len(samples) > 1 else 0.0


def cell(speed):
    if speed is None:
        return "–"
    digits = 0 if speed[0] >= 100 else 1
    return f"{speed[0]:,.{digits}f} ± {speed[1]:,.{digits}f}"


def ratio(ours, theirs):
    return "–" if ours is None or theirs is None else f"{ours[0] / theirs[0]:.2f}"


def table(llama, sparsight, options):
    lines = [
        "| test | llama.cpp | Sparsight | ratio | Sparsight, dense | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, n in (("prefill", options.prompt), ("decode", options.generate)):
        for depth in map(int, options.depths.split(",")):
            theirs = pooled(llama, (name, depth))
            sparse, dense = (pooled(sparsight, (mode, name, depth)) for mode in ("sparse", "dense"))
            lines.append(
                f"| {name} {n} at depth {depth:,} | {cell(theirs)} | {cell(sparse)} | {ratio(sparse, theirs)} "
                f"| {cell(dense)} | {ratio(dense, theirs)} |"
            )
    return "\n".join(lines)


def cpu_name():
    """What the system calls the processor, with what matters of its vector units on x86."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split("\t", 1) for line in cpuinfo.read_text().splitlines() if "\t" in line)
        fields = {name.strip(): value.lstrip("\t: ") for name, value in fields.items()}
        flags = fields.get("flags", "").split()
        units = [unit for unit in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if unit in flags]
        return " ".join([fields.get("model name", platform.machine()), *([f"({', '.join(units)})"] if units else [])])
    if sys.platform == "darwin":
        return output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return platform.processor()


def load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sparsight-compare", metavar="DIR",
                        help="where everything made here is kept [default: %(default)s]")
    parser.add_argument("--venv", type=Path, metavar="DIR",
                        help="Python environment to use or make [default: venv in the work folder]")
    parser.add_argument("--sparsight", type=Path, default=REPOSITORY / "target/release/sparsight", metavar="FILE",
                        help="the program to compare [default: target/release/sparsight]")
    parser.add_argument("--only", choices=("prepare", "llama", "both"), default="both",
                        help="stop before measuring, or measure llama.cpp alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="for the build of llama.cpp")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="for both engines")
    parser.add_argument("--prompt", type=int, default=512, metavar="N")
    parser.add_argument("--generate", type=int, default=64, metavar="N")
    parser.add_argument("--depths", default="0,2048,3072", metavar="N,N", help="tokens already in the context")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="in each round")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="the engines take turns this often")
    parser.add_argument("--device", default="cpu", metavar="ID", help="Sparsight's device [default: %(default)s]")
    parser.add_argument("--vulkan-backend", type=Path, metavar="FILE",
                        help="llama.cpp's Vulkan backend of the same version, a libggml-vulkan.so: llama.cpp runs there")
    parser.add_argument("--llama-option", action="append", default=[], metavar="WORD",
                        help="a further word for llama-bench, any number of times (--llama-option=-ctk)")
    options = parser.parse_args()

    if options.vulkan_backend and not options.vulkan_backend.exists():
        parser.error(f"{options.vulkan_backend} does not exist")
    if options.only == "both" and not options.sparsight.exists():
        parser.error(f"{options.sparsight} does not exist: run `make build` first")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    env = Environment((options.venv or work / "venv").absolute())
    model = make_model(env, work)
    source = unpack_source(env, work)
    bench = build(env, work, source, options.jobs)
    gguf = convert(env, work, source, model)
    say(f"checkpoint {model}\nGGUF {gguf}\nllama-bench {bench}")
    if options.only == "prepare":
        return

    load_before = load()
    llama, sparsight, commit = [], [], "not run"
    for turn in range(options.rounds):
        say(f"round {turn + 1} of {options.rounds}: llama.cpp")
        llama.append(run_llama(bench, gguf, options))
        if options.only == "both":
            say(f"round {turn + 1} of {options.rounds}: Sparsight")
            samples, commit = run_sparsight(options.sparsight, model, options)
            sparsight.append(samples)

    print(table(llama, sparsight, options))
    busy = load_before > IDLE * os.cpu_count()
    print(
        f"\nTokens per second, mean ± standard deviation of {options.rounds} × {options.repeat} repeats, "
        f"the engines taking turns; threads: {options.threads}, f32 weights, 13.2 M parameters, top-64 of the context.\n"
        f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} cores, load before {load_before:.1f}"
        f"{' (**not idle**)' if busy else ''}.\n"
        f"Sparsight {commit} on {options.device}; llama.cpp of {SOURCE}, "
        f"{'its Vulkan backend on the first adapter' if options.vulkan_backend else 'native build'}"
        f"{', ' + ' '.join(options.llama_option) if options.llama_option else ', its f16 cache'}."
    )


if __name__ == "__main__":
    main()
