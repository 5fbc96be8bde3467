import dataclasses
import io
import math

from rich.console import Console

from raydae.app.tables import score_table, undefined_lines
from raydae.evaluation.scoring import Score
from raydae.evaluation.tables import mean_rows, to_csv, to_records

SCORE = Score(
    image="a",
    method="unet",
    noise="25",
    sigma=25,
    noisy={"psnr": 20, "ssim": 0.4},
    denoised={"psnr": 30, "ssim": 0.8},
    seconds=0.5,
)


B = dataclasses.replace(
    SCORE,
    image="b",
    noisy={"psnr": 20, "ssim": 0.2},
    denoised={"psnr": 20, "ssim": math.nan},
)


def test_a_table_has_means_over_the_images() -> None:
    scores = [SCORE, B]
    equal = {"psnr": math.inf, "ssim": 1}
    scores.append(dataclasses.replace(SCORE, noise="50", sigma=50, denoised=equal))
    scores.append(dataclasses.replace(SCORE, method="tv"))
    rows = mean_rows("set", scores, "a remark")
    assert rows[0] == {
        "set": "set",
        "method": "unet",
        "noise": "25",
        "images": 2,
        "sigma": 25,
        "psnr_noisy": 20,
        "psnr": 25,
        "ssim_noisy": 0.4,
        "ssim": 0.8,
        "ssim_images": 1,
        "seconds": 0.5,
        "remark": "a remark",
    }
    assert (rows[1]["sigma"], rows[1]["psnr"]) == (50, None)
    assert (rows[2]["method"], rows[2]["images"]) == ("tv", 1)
    assert "remark" not in rows[2]


def test_a_metric_that_no_image_defines_has_no_mean() -> None:
    small = dataclasses.replace(
        SCORE, noisy={"psnr": 20, "ssim": math.nan}, denoised={"psnr": 30, "ssim": math.nan}
    )
    (row,) = mean_rows("set", [small])
    assert (row["psnr"], row["ssim_noisy"], row["ssim"], row["ssim_images"]) == (30, None, None, 0)


def test_a_line_says_which_images_a_mean_leaves_out() -> None:
    assert undefined_lines(mean_rows("set", [SCORE])) == []
    assert undefined_lines(mean_rows("set", [SCORE, B, SCORE])) == [
        "SSIM is not defined for 1 of 3 images: smaller than its window of 11x11; its means leave "
        "them out"
    ]


def test_a_long_name_leaves_room_for_the_numbers() -> None:
    text = io.StringIO()
    scores = [dataclasses.replace(SCORE, image="n" * 251)]
    Console(file=text, width=120).print(score_table(to_records(scores)))
    words = text.getvalue().splitlines()[1].split()
    assert words[0].startswith("nnnn")
    assert words[1:] == ["unet", "25", "20.00", "30.00", "0.4000", "0.8000"]


def test_csv_has_a_line_for_each_image() -> None:
    text = to_csv([dataclasses.replace(SCORE, image="a,b")])
    assert text.splitlines() == [
        "image,method,noise,sigma,psnr_noisy,psnr,ssim_noisy,ssim,seconds",
        '"a,b",unet,25,25,20,30,0.4,0.8,0.5',
    ]


def test_records_can_be_written_as_json() -> None:
    (record,) = to_records(
        [dataclasses.replace(SCORE, denoised={"psnr": math.inf, "ssim": math.nan})]
    )
    assert (record["psnr"], record["ssim"]) == (None, None)
    assert (record["image"], record["psnr_noisy"]) == ("a", 20)
