"""Names the tests that CTest skipped, each with its reason. Not a judge of failures: CTest is.

    python3 skipped_tests.py RESULTS.xml
"""
import re
import sys
import xml.etree.ElementTree as ElementTree

tests = list(ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
skipped = {}
for test in tests:
    if test.get("status") not in ("notrun", "disabled"):
        continue
    # GoogleTest says: FILE:LINE: Skipped, then the reason, then the test's own line.
    output = test.findtext("system-out") or ""
    reason = re.search(r": Skipped\n(.*?)\n+\[  SKIPPED \]", output, re.DOTALL)
    skipped.setdefault(reason.group(1).strip() if reason else "no reason given", []).append(
        test.get("name"))

failed = sum(test.get("status") == "fail" for test in tests)
skips = sum(map(len, skipped.values()))
for reason, names in skipped.items():
    print(f"skipped: {', '.join(names)}\n    because: {reason}")
print(f"{len(tests) - failed - skips} passed, {failed} failed, {skips} skipped")
