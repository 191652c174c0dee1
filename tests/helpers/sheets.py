"""Finding pictures on a contact sheet."""

import numpy as np


def find(sheet, cell):
    """Corners at which the sheet shows exactly this picture."""
    h, w = cell.shape[:2]
    corners = np.argwhere((sheet[: sheet.shape[0] - h + 1, : sheet.shape[1] - w + 1] == cell[0, 0]).all(-1))
    return [(y, x) for y, x in corners.tolist() if np.array_equal(sheet[y : y + h, x : x + w], cell)]
