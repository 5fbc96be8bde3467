"""Images: picture files, the images of a run and their splits, BSDS500, the synthetic set.

- `config`: the settings of the images
- `pictures`: read image files of many formats and modes
- `raw_photographs`: tell raw photographs, which are refused
- `png16`, `sgi16`, `tiff`: read what Pillow would cut to 8 bits; `stored_bits`: tell where it does
- `plugins`: HEIF and JPEG XL, if their packages are installed
- `libtiff`: refuse a TIFF if libtiff, with which Pillow decodes it, prints errors
- `depth`: denoise values of any depth; scale them to 8 bits
- `denoise_file`: denoise one into another file of the same mode, format and metadata
- `denoise_tiff`: the pages of a TIFF; `tiff_rewrite`: replace the pixels in a copy of one;
  `tiff_directory`: with pixels of another form
- `pillow_file`: those that Pillow reads and writes; `metadata`: copy what Pillow does not write,
  with `jpeg_segments`, `png_chunks`, `jp2_boxes`, `avif_boxes` (of `iso_boxes`), `bmp_header` and
  `other_metadata`
- `inputs`: find the pictures that a user's files, folders and patterns name
- `source`: the protocol of a data source of the user's own
- `image_sets`: the sets of a run, and their file
- `image_list`: read a list of images, a Parquet, CSV or JSONL file
- `listing`: list a folder, split a list of images
- `image_file`: the record of an image, and reading its pixels; `image_table`: many records
- `index`: records of files that were decoded before; `scan`: make records of images
- `sources`: find and split the images of a configuration
- `pairs`: match noisy files with clean ones; `pair_checks`: decode pairs, and compare them
- `reader`: read the images of a run, from memory (`image_cache`), from the local disk
  (`pixel_store`) or by decoding
- `changes`: which images of a run have changed since it began
- `bsds500`: the manifest of BSDS500, finding a copy, verifying it; `bsds500_download`: download it
- `dead_leaves`: draw one dead leaves image; `synthetic`: the cached set of them

This room imports `core` only, and neither torch nor Ray, so that the processes that cut patches
start fast.

To add a data source, write a class with the methods `images()` and `read(key)` in a module of your
own and name it: ``--data MODULE:CLASS``. Nothing here needs to change; `source` has an example.
"""
