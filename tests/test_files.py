"""Files are read as a stream; what is wrong with them is said in one line with its place."""

import errno
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from minirm.data.files import CHUNK, find_files, read_rows
from minirm.errors import InputError


def fields_of(path):
    return [row.fields for row in read_rows(path)]


def written(folder, name, content):
    path = folder / name
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


RECORDS = [{"a": "one"}, {"a": "zwei é"}, {"a": "{[\"'"}]
LINES = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
LAYOUTS = {
    "lines": "\n".join(LINES),
    "lines with CRLF": "\r\n".join(LINES) + "\r\n",
    "lines with blank ones": "\n\n" + "\n  \n".join(LINES) + "\n\n",
    "lines after a byte order mark": "\ufeff" + "\n".join(LINES),
    "array on one line": json.dumps(RECORDS),
    "array over lines": "\ufeff\n" + json.dumps(RECORDS, indent=2) + "\n",
    "instances last": json.dumps({"type": "x", "version": 12, "instances": RECORDS}),
    "instances first": json.dumps({"instances": RECORDS, "type": {"a": [1]}, "version": 12}, indent=1),
    "objects over lines": "\n".join(json.dumps(record, indent=2) for record in RECORDS),
}


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".JSON"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_is_read_in_every_layout(tmp_path, layout, suffix):
    assert fields_of(written(tmp_path, "x" + suffix, LAYOUTS[layout])) == RECORDS


def test_a_record_knows_its_file_and_line(tmp_path):
    lines = written(tmp_path, "x.jsonl", '\n{"a": 1}\n\n{"a": 2}')
    array = written(tmp_path, "x.json", '[\n{"a": 1},\n{"a":\n2}, {"a": 3}]')
    table = written(tmp_path, "x.csv", '\na,b\n\n1,"x\ny"\n2,z\n')
    assert [row.place for row in read_rows(lines)] == [f"{lines}:2", f"{lines}:4"]
    assert [row.place for row in read_rows(array)] == [
        f"{array}:2 (record 1)",
        f"{array}:3 (record 2)",
        f"{array}:4 (record 3)",
    ]
    assert [row.place for row in read_rows(table)] == [f"{table}:4", f"{table}:6"]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_delimiter_of_a_table_is_recognised(tmp_path, delimiter):
    path = written(tmp_path, "x.csv", f'Prompt{delimiter}"b, or c"\r\n"x{delimiter}""y"""{delimiter}1\r\n')
    assert fields_of(path) == [{"prompt": f'x{delimiter}"y"', "b, or c": "1"}]


def test_spaces_around_a_bar_are_layout_and_others_are_text(tmp_path):
    assert fields_of(written(tmp_path, "x.csv", "a | b\n x y | z \n")) == [{"a": "x y", "b": "z"}]
    assert fields_of(written(tmp_path, "y.csv", "a,b\n x y , z \n")) == [{"a": " x y ", "b": " z "}]


def test_a_folder_stands_for_its_data_files_in_sorted_order(tmp_path):
    names = ["b.jsonl", "a/z.csv.gz", "a/.hidden.json", ".git/x.json", "README.md", "c.JSON"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files([tmp_path]) == [tmp_path / "a/z.csv.gz", tmp_path / "b.jsonl", tmp_path / "c.JSON"]


def test_a_folder_is_read_through_links_to_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    written(tmp_path / "elsewhere", "x.jsonl", "{}")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b").symlink_to("a")
    assert find_files([tmp_path / "data"]) == [tmp_path / "data/a/x.jsonl", tmp_path / "data/b/x.jsonl"]


def test_what_in_a_folder_cannot_be_read_is_refused_and_not_skipped(tmp_path, monkeypatch):
    written(tmp_path, "x.jsonl", "{}")
    (tmp_path / "circle").symlink_to(".")
    with pytest.raises(InputError, match=r"circle: links back to a folder that it lies in: must not run in a circle"):
        find_files([tmp_path])
    (tmp_path / "circle").unlink()
    (tmp_path / "y.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(InputError, match=r"y\.jsonl: must be a file; it is a pipe or a device, or links to nothing"):
        find_files([tmp_path])
    (tmp_path / "y.jsonl").unlink()
    (tmp_path / "closed").mkdir()
    list_folder = Path.iterdir

    def refuse(folder):
        if folder.name == "closed":  # as without permission; the superuser, who may run this test, has every one
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        find_files([tmp_path])


def test_a_line_of_a_megabyte_is_read(tmp_path):
    record = {"a": "ab\n" * 350_000}
    for name, content in (("x.jsonl", json.dumps(record)), ("x.json", json.dumps([record, record]))):
        assert fields_of(written(tmp_path, name, content))[-1] == record
    table = written(tmp_path, "x.csv", "a,b\n1," + "x" * 1_000_000)
    assert len(fields_of(table)[0]["b"]) == 1_000_000


BAD_FILES = {
    "empty.jsonl": ("", ": empty: a data file holds at least one record"),
    "empty.jsonl.gz": ("", ": empty: a data file holds at least one record"),
    "empty.csv": ("", ": empty: a data file holds at least one record"),
    "header.csv": ("prompt,chosen,rejected\n", ": empty: a data file holds at least one record"),
    "quoted_nothing.csv": ('""\n', ": empty: a data file holds at least one record"),
    "blank.json": (" \n \n", ": empty: a data file holds at least one record"),
    "none.json": ("[]", ": empty: a data file holds at least one record"),
    "half.jsonl": (
        '{"a": 1}\n{"a": "b',
        ":2: not valid JSON: Unterminated string starting, found '\"b'",
    ),
    "half_first.jsonl": ('{"a":\n{"a": 1}\n', ":1: not valid JSON: Expecting value, found the end"),
    "half_array.json": ('[{"a": 1},\n{"a":', ":2: not valid JSON: Expecting value, found the end"),
    "open_array.json": ('[{"a": 1}', ":1: not valid JSON: expecting ',', found the end"),
    "no_comma.json": ('[{"a": 1}\n{"a": 2}]', ":2: not valid JSON: expecting ',', found '{\"a\": 2}]'"),
    "open_instances.json": ('{"instances": [{"a": 1}]', ":1: not valid JSON: expecting '}', found the end"),
    "comma_too_many.json": ('[{"a": 1},]', ":1: not valid JSON: Expecting value, found ']'"),
    "two_arrays.json": ('[{"a": 1}]\n[]', ":2: not valid JSON: text after the end of the document"),
    "text.json": ("hello", ":1: not valid JSON: Expecting value, found 'hello'"),
    "number.json": ("42", ":1: record 42: must be a JSON object"),
    "numbers.json": ("[1, 2]", ":1 (record 1): record 1: must be a JSON object"),
    "list.jsonl": ('{"a": 1}\n[1, 2]\n', ":2: record a list of 2: must be a JSON object"),
    "deep.jsonl": ('{"a": ' + "[" * 200_000, ":1: not valid JSON: nested too deeply"),
    "deep.json": ("[" + "[" * 200_000, ":1: not valid JSON: nested too deeply"),
    "digits.jsonl": ('{"a": ' + "1" * 5000 + "}", ":1: not valid JSON: a number of too many digits"),
    "latin.jsonl": (b'{"a": 1}\n{"a": "caf\xe9"}', ':2: near \'{"a": "caf�"}\': must be UTF-8 text'),
    "latin.json": (b'[{"a": 1},\n{"a": "caf\xe9"}]', ":2: must be UTF-8 text"),
    "utf16.csv": ("a,b".encode("utf-16"), ":1: holds a NUL byte: must be text"),
    "nul.jsonl": (b'{"a": 1}\n{"a": "\0"}', ":2: holds a NUL byte: must be text"),
    "nul.json": (b'[{"a": 1},\n{"a": "\0"}]', ":2: holds a NUL byte: must be text"),
    "twice.csv": ("prompt,A,b,a\n1,2,3,4", ":1: header names 'a' more than once: columns must differ"),
    "short.csv": ("a,b\n1,2\n\n3\n", ":4: row of 1 cells: the header names 2: 'a', 'b'"),
    "long.csv": ("a,b\n1,2,3\n", ":2: row of 3 cells: the header names 2: 'a', 'b'"),
    "open.csv": ('a,b\n1,"2\n3\n', ":2: not valid CSV: unexpected end of data"),
    "quote.csv": ('a,b\n1,"2" or 3\n', ":2: not valid CSV: ',' expected after '\"'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_with_its_place(tmp_path, name):
    content, message = BAD_FILES[name]
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    assert str(caught.value) == f"{path}{message}"


def test_a_damaged_gzip_file_is_refused(tmp_path):
    whole = gzip.compress("\n".join(json.dumps({"a": str(i) * 9}) for i in range(5000)).encode())
    damages = {
        "cut off": (whole[:-20], "ended before the end-of-stream marker"),
        "overwritten": (whole[:3000] + b"x" * 50 + whole[3050:], ""),
        "not gzip at all": (b'{"a": 1}', "Not a gzipped file"),
    }
    for name, (content, message) in damages.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.*{message}") as caught:
            list(read_rows(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no data: name at least one file or folder"),
        (["gone.jsonl"], "gone.jsonl: no such file or folder"),
        (["."], ".: folder without data: expected a file ending in .jsonl, .json, .csv, .jsonl.gz, .json.gz, .csv.gz"),
        (["notes.txt"], "notes.txt: unknown kind of file: the name must end in .jsonl, .json, "),
        (["x" * 5000], "no such file or folder"),
    ],
)
def test_paths_without_data_are_refused(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        find_files(paths)
    assert message in str(caught.value)


def test_a_file_name_with_a_line_break_does_not_break_the_message(tmp_path):
    path = written(tmp_path, "two\nlines.jsonl", "")
    with pytest.raises(InputError, match=r"two\\nlines.jsonl': empty"):
        list(read_rows(path))


@pytest.fixture
def peak_bytes():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "instances.json", "x.csv", "x.json.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, peak_bytes, name):
    text = "A fairly long answer. " * 100
    records = [json.dumps({"prompt": str(i), "chosen": text}) for i in range(2000)]
    content = {
        "x.jsonl": "\n".join(records),
        "x.csv": "prompt,chosen\n" + "\n".join(f"{i},{text}" for i in range(2000)),
        "instances.json": '{"type": "x", "instances": [' + ",".join(records) + "]}",
    }.get(name, "[" + ",".join(records) + "]")
    path = written(tmp_path, name, content)
    del records, content
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    assert sum(1 for _ in read_rows(path)) == 2000  # 4.4 MB of text
    assert peak_bytes() - before < 1_000_000


def test_a_value_that_is_wrong_is_not_taken_for_one_that_goes_on(tmp_path, peak_bytes):
    path = written(tmp_path, "x.json", '[{"a": tru},' + '{"a": "b"},' * 400_000 + "]")
    tracemalloc.reset_peak()
    with pytest.raises(InputError, match=r"x\.json:1: not valid JSON: Expecting value, found 'tru},"):
        list(read_rows(path))
    assert peak_bytes() < 1_000_000


@pytest.mark.parametrize("content, line", [("a,b\r1,2\r", 1), ("a,b\n1,2\r3,4\n", 2)])
def test_a_table_whose_lines_end_in_cr_alone_is_refused(tmp_path, content, line):
    path = written(tmp_path, "x.csv", content)
    with pytest.raises(InputError) as refused:
        fields_of(path)
    assert str(refused.value) == f"{path}:{line}: not valid CSV: a CR alone: lines must end in LF or CRLF"


@pytest.mark.parametrize("number", ["7", "7.5", "7e5", "-7.5E-12"])
@pytest.mark.parametrize("end", ["}", "\n}\n", ', "y": 1}'])
def test_a_number_may_lie_across_the_edge_of_a_chunk(tmp_path, number, end):
    head = '{"instances": [{"a": 1}], "z": '
    for read in range(len(number) + 1):
        text = head + " " * (CHUNK - len(head) - read) + number + end
        assert fields_of(written(tmp_path, "x.json", text)) == [{"a": 1}]


def test_instances_that_come_twice_are_refused(tmp_path):
    path = written(tmp_path, "x.json", '{"instances": [{"a": 1}],\n"instances": [{"a": 2}]}')
    with pytest.raises(InputError, match=r'x\.json:2: key "instances" stands here again: must be there once'):
        fields_of(path)
