"""A small contract to work with."""

import pytest

from plinth.contracts.odcs import parse

SMALL = """\
apiVersion: v3.1.0
kind: DataContract
id: small
version: 1.2.3
status: active
team: { name: data-team }
customProperties:
  - property: consumers
    value: [{ team: readers }]
slaProperties:
  - { property: freshness, value: 1, unit: d, element: small.at }
schema:
  - name: small
    quality:
      - { name: size, metric: rowCount, mustBeBetween: [1, 100] }
    properties:
      - { name: id, logicalType: integer, primaryKey: true, primaryKeyPosition: 1 }
      - { name: at, logicalType: timestamp, required: true }
      - name: color
        logicalType: string
        quality:
          - { metric: invalidValues, mustBe: 0, arguments: { validValues: [red, green] } }
      - name: weight
        logicalType: number
        logicalTypeOptions: { minimum: 0, maximum: 10 }
        customProperties: [{ property: unit, value: kg }]
      - { name: code, logicalType: string, unique: true, logicalTypeOptions: { pattern: "^[A-Z]+$", maxLength: 4 } }
"""


@pytest.fixture(scope="session")
def small_text():
    return SMALL


@pytest.fixture(scope="session")
def small():
    return parse(SMALL, "small.odcs.yaml")
