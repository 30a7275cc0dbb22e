from __future__ import annotations

import torch

from trainers.report.similarity import similarity_matrix, similarity_picture


def test_matrix_by_hand_has_a_classs_prompts_side_by_side() -> None:
    # P = 2, K = 2, T = 2: class a along x, then along y; class b against x, then along the diagonal.
    embeddings = torch.tensor([[[2.0, 0.0], [-3.0, 0.0]], [[0.0, 5.0], [1.0, 1.0]]])
    diagonal = 0.5**0.5
    expected = torch.tensor(
        [
            [1.0, 0.0, -1.0, diagonal],
            [0.0, 1.0, 0.0, diagonal],
            [-1.0, 0.0, 1.0, -diagonal],
            [diagonal, diagonal, -diagonal, 1.0],
        ]
    )
    torch.testing.assert_close(similarity_matrix(embeddings), expected)


def test_picture_is_red_blue_and_white_below_and_right_of_the_names() -> None:
    picture = similarity_picture(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), ["sky", "sign symbol"])
    height, width = picture.shape[1:]
    line, side = 28, 56
    top = width - side  # of the matrix; the names above it take as much as those to its left
    assert picture.dtype == torch.uint8 and height == width + 3 * line
    corner = picture[:, top:width, -side:]
    red, blue, white, second_red = (corner[:, y, x].tolist() for y, x in ((14, 14), (14, 42), (42, 14), (42, 42)))
    assert red == second_red and red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0] and min(white) > 240
    names = picture[:, top:width, :-side], picture[:, :top, -side:]
    assert all((part == 0).all(0).any() for part in names)
    assert (picture[:, :top, :-side] == 255).all()
    scale = picture[:, width + line + line // 2, -side:]
    assert scale[:, 0].tolist() == blue and scale[:, -1].tolist() == red and scale[:, side // 2].min() > 230
