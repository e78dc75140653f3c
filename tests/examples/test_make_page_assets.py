"""The chart library in the package is the one that the script names, unchanged."""


def test_the_files_are_those_of_the_version(example):
    script = example("make_page_assets")
    files = {name: (script.FOLDER / name).read_bytes() for name in script.FILES}
    assert script.faults(files) == []
    changed = files | {"uPlot.min.css": files["uPlot.min.css"] + b" "}
    assert script.faults(changed) == [
        f"uPlot.min.css is not the file of {script.PACKAGE}: run examples/make_page_assets.py"
    ]
    assert len(script.faults({})) == 3
    assert script.PACKAGE.split("@")[1].encode() in files["uPlot.iife.min.js"][:80]
