"""`Sources`: the ways to make a `Dataset`, each of which reads the images' names and labels and no pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medimg.errors import MissingExtraError

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset

__all__ = ["Sources"]


class Sources:
    """The `from_…` methods of `Dataset`."""

    @staticmethod
    def from_folder(
        root: str | Path,
        *,
        group: str | Callable[[str], str | None] | None = None,
        positive: str | None = None,
    ) -> Dataset:
        """Reads `root/CLASS/*.png`, or `root/SPLIT/CLASS/*.png` with splits named train, val, test or alike.

        Args:
            root: The folder.
            group: Whose image it is: a regular expression on the path inside `root`, whose captures are joined, or a
                function of that path.
            positive: For two classes, the one to detect; needed where the other is not a known negative.

        Raises:
            DatasetError: No images, one class only, an empty class, a class that train lacks, or a path that `group`
                does not match.
        """
        from medimg.data.readers.folder import read_folder

        return read_folder(Path(root), group=group, positive=positive)

    @staticmethod
    def from_images(
        images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, recursive: bool = True
    ) -> Dataset:
        """Reads images without labels, to be predicted: it has no classes, and nothing can be trained on it.

        Args:
            images: A folder of any structure, a file, or several of these. In folders, images are known by the ends of
                their names, DICOM files by their signature.
            recursive: Whether to read the folders in a folder, too.

        Raises:
            DatasetError: No images.
        """
        from medimg.data.readers.images import read_images

        several = [images] if isinstance(images, str | os.PathLike) else images
        return read_images([Path(image) for image in several], recursive=recursive)

    @staticmethod
    def from_csv(
        csv: str | Path,
        *,
        images: str | Path,
        path: str,
        labels: str | Sequence[str],
        group: str | Callable[[Mapping[str, str]], str | None] | None = None,
        separator: str | None = None,
        split: str | None = None,
        columns: Sequence[str] = (),
        positive: str | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads a table with a row an image.

        Args:
            csv: The table: UTF-8, separated by commas, semicolons or tabs.
            images: Folder with the images, at any depth.
            path: Column with the file's name; its folder and extension may be left out where no two files are meant.
            labels: One column with the class; or one column a class with 1, 0 or nothing (unknown). Where every row has
                exactly one 1, they are read as exclusive classes.
            group: Column that says whose image it is, or a function of the row.
            separator: Set for several labels in one cell, such as "|" in `Edema|Effusion`. "No Finding" is no label;
                if there is only one label beside it, these two are the classes.
            split: Column with train, val or test.
            columns: Extra columns to keep. They leave the machine only because they are named here.
            positive: For two classes, the one to detect.
            missing: "drop" leaves out rows without their file instead of stopping.

        Raises:
            DatasetError: An unknown column, rows without a file or a label, or one image with two labels.
        """
        from medimg.data.readers.table import read_csv_rows, read_table

        table = Path(csv)
        return read_table(
            read_csv_rows(table), name=table.stem, images=Path(images), path=path, labels=labels, group=group,
            separator=separator, split=split, columns=columns, positive=positive, missing=missing,
        )  # fmt: skip

    @staticmethod
    def from_dataframe(
        frame: Any,
        *,
        images: str | Path,
        path: str,
        labels: str | Sequence[str],
        group: str | Callable[[Mapping[str, str]], str | None] | None = None,
        separator: str | None = None,
        split: str | None = None,
        columns: Sequence[str] = (),
        positive: str | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads a pandas DataFrame (or what has its `to_dict("records")`); arguments as in `from_csv`."""
        from medimg.data.readers.table import dataframe_rows, read_table

        return read_table(
            dataframe_rows(frame), name="dataframe", images=Path(images), path=path, labels=labels, group=group,
            separator=separator, split=split, columns=columns, positive=positive, missing=missing,
        )  # fmt: skip

    @staticmethod
    def from_dicom(
        root: str | Path,
        *,
        labels: str | Sequence[str] | None = None,
        table: str | Path | Any | None = None,
        key: str | None = None,
        by: str = "file",
        group: str | Callable[[Mapping[str, str]], str | None] | None = "PatientID",
        separator: str | None = None,
        split: str | None = None,
        columns: Sequence[str] = (),
        positive: str | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads a tree of DICOM files, however they are called, by patient; other files in it are left out and counted.

        Labels come from class folders as in `from_folder`, from a table, or from an element of the headers. Every
        sample has in its `columns` the patient's sex, age in years, view, manufacturer and more
        (`medimg.data.readers.dicom.LOCAL`); they stay on this machine unless `columns` names them.

        Args:
            root: The folder.
            labels: With a table its column or columns, as in `from_csv`; without one an element of the headers, such as
                "BodyPartExamined". None: the folders are the classes.
            table: A CSV file or a DataFrame with the labels.
            key: The table's column that tells the image.
            by: What `key` holds: "file", the file's name; or an element, such as "SOPInstanceUID", "StudyInstanceUID",
                "AccessionNumber" or "PatientID". A row of a study or a patient labels all of their images.
            group: Whose image it is: an element, a column of the table, or a function of the header's elements. Where
                there is no PatientID, it is that of the same study's other images; where there is none in the study,
                or one for all images, it is the study.
            separator: As in `from_csv`.
            split: The table's column with train, val or test.
            columns: Columns of the table, or elements, that may leave the machine, such as "PatientSex".
            positive: For two classes, the one to detect.
            missing: "drop" leaves out rows without their image instead of stopping.

        Raises:
            DatasetError: No DICOM images, an unknown column or element, rows without an image or a label, or folders
                that are patients and not classes.
            MissingExtraError: pydicom is not installed.
        """
        try:
            from medimg.data.readers.dicom import read_dicom
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "medimg":
                raise
            raise MissingExtraError("Dataset.from_dicom", "dicom") from error
        from medimg.progress import Display

        with Display(Path(root).name) as display:
            return read_dicom(
                Path(root), labels=labels, table=table, key=key, by=by, group=group, separator=separator, split=split,
                columns=columns, positive=positive, missing=missing, report=display,
            )  # fmt: skip

    # -- public sets --------------------------------------------------------------------------------------------------

    @staticmethod
    def from_kermany(root: str | Path, *, classes: Literal[2, 3] | None = None) -> Dataset:
        """Reads the children's chest films of Kermany et al., as Kaggle or Mendeley packs them, or their retinal OCT.

        Patients are told from the files' names: `person7_bacteria_21.jpeg` is of the patient (bacteria, 7), since
        numbers are counted anew for each; `IM-0115` and `NORMAL2-IM-0115` are two.

        Args:
            root: The folder that holds train and test (and val), or one around it.
            classes: 2: NORMAL and PNEUMONIA; 3: NORMAL, BACTERIA and VIRUS. None: 2; for OCT its four.

        Raises:
            DatasetError: The folder is not that set.
        """
        from medimg.data.readers.kermany import read_kermany

        return read_kermany(Path(root), classes=classes)

    @staticmethod
    def from_nih(
        root: str | Path,
        *,
        labels: str | Sequence[str] | None = None,
        table: str | Path | None = None,
        images: str | Path | None = None,
        columns: Sequence[str] = (),
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads NIH ChestX-ray14: fourteen findings at once, by patient, with the official test list where it is.

        `test_list.txt` beside the table gives the test split, and all else is train; training cuts the validation
        split out of it by patient. Age, sex and view stay on this machine unless `columns` names them.

        Args:
            root: The folder with `Data_Entry_2017.csv` (or `_v2020`) and the images, in `images_001/images` and so on
                or in one folder.
            labels: One finding, or several in any order; "any finding" asks whether there is one. None: all fourteen.
            table: Which table, if there are several; a path in `root`.
            images: The folder of the images, if not all in `root` are meant; a path in `root`.
            columns: Columns that may leave the machine, such as "Patient Gender".
            missing: "drop" leaves out rows without their file, as where only some of the archives were downloaded.

        Raises:
            ConfigError: `labels` names no finding of theirs.
            DatasetError: The folder is not that set, or images are missing.
        """
        from medimg.data.readers.nih import read_nih

        return read_nih(Path(root), labels=labels, table=table, images=images, columns=columns, missing=missing)

    @staticmethod
    def from_isic(
        root: str | Path,
        *,
        classes: Literal["diagnosis", "malignancy"] | None = None,
        table: str | Path | None = None,
        images: str | Path | None = None,
        columns: Sequence[str] = (),
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads HAM10000 or the data of an ISIC challenge (2018 task 3, 2019, 2020), by patient where known, or lesion.

        Args:
            root: The folder with the table of diagnoses and the images. Tables of training, validation and test beside
                each other are read as splits.
            classes: "diagnosis": seven classes or eight; "malignancy": malignant (mel, bcc, akiec, ak, scc) or benign
                (nv, bkl, df, vasc). None: diagnoses where the table has them, which that of 2020 has not.
            table: Which table, if there are several of one split; a path in `root`.
            images: The folder of the images, if not all in `root` are meant; a path in `root`.
            columns: Columns that may leave the machine, such as "sex".
            missing: "drop" leaves out rows without their file.

        Raises:
            ConfigError: `classes` asks what the table does not say.
            DatasetError: The folder is not such a set, or images are missing.
        """
        from medimg.data.readers.isic import read_isic

        return read_isic(Path(root), classes=classes, table=table, images=images, columns=columns, missing=missing)

    @staticmethod
    def from_intel(root: str | Path) -> Dataset:
        """Reads the Intel scenes: six kinds of natural pictures. `seg_pred`, which has no labels, is not read.

        Raises:
            DatasetError: The folder is not that set.
        """
        from medimg.data.readers.intel import read_intel

        return read_intel(Path(root))

    @staticmethod
    def from_medmnist(npz: str | Path, *, positive: str | None = None, dest: str | Path | None = None) -> Dataset:
        """Reads one of MedMNIST's twelve 2-D sets, at any size, with its official splits.

        Images are unpacked once as PNG files, which says how many bytes they take before it begins and goes on where it
        was cut off.

        Args:
            npz: The file, such as `pneumoniamnist_224.npz`. Its name tells what the classes are called; of another set
                they are called by their numbers.
            positive: For two classes, the one to detect.
            dest: The folder to unpack into; None: the cache under `MEDIMG_HOME`.

        Raises:
            DatasetError: The file is damaged, holds volumes, or is not MedMNIST's.
            StorageError: The disk has too little room.
        """
        from medimg.data.readers.medmnist import read_medmnist
        from medimg.progress import Display

        file = Path(npz)
        with Display(file.stem) as display:
            return read_medmnist(file, positive=positive, dest=None if dest is None else Path(dest), report=display)

    @staticmethod
    def download(name: str, dest: str | Path, *, accept_changed: bool = False) -> Dataset:
        """Downloads a public set once and reads it with its reader; a second call needs no network.

        What is known of the sets, such as licence, size and traps, is printed by `medimg download` and kept in
        `medimg.data.public.catalogue`. Licence and citation are shown before the first download. What arrived before a
        cut or a kill is not downloaded again.

        Args:
            name: Of the set, such as "ham10000" or "pneumoniamnist-224".
            dest: The folder for it: new, empty, or of an earlier call.
            accept_changed: Whether a file for which nobody publishes a hash may be another one than at the first
                download on this machine.

        Raises:
            DatasetError: The catalogue has no such set; it needs an agreement or a key of yours; or a file has changed.
            DownloadError: A server cannot be reached, or sends something else.
            MissingExtraError: The set is on Kaggle, and its package is not installed.
            StorageError: The disk is full or cannot be written.
        """
        from medimg.data.dataset import Dataset
        from medimg.data.public.acquisition import acquire
        from medimg.data.public.catalogue import find
        from medimg.progress import Display

        chosen, folder = find(name), Path(dest)
        with Display(name) as display:
            acquire(chosen, folder, accept_changed=accept_changed, report=display)
        read: Callable[[Path], Dataset] = getattr(Dataset, chosen.reader)
        return read(folder / chosen.files[0].name if chosen.reads_file else folder)

    # -- records ------------------------------------------------------------------------------------------------------

    @staticmethod
    def from_tfrecord(
        paths: str | Path | Sequence[str | Path],
        *,
        image: str | None = None,
        labels: str | Sequence[str] | None = None,
        group: str | None = None,
        split: str | None = None,
        classes: Sequence[str] = (),
        columns: Sequence[str] = (),
        positive: str | None = None,
        dest: str | Path | None = None,
    ) -> Dataset:
        """Reads TFRecord files, gzipped or not, whose records are `tf.train.Example` with an encoded image.

        What `to_tfrecord` wrote needs no name of a feature. Both checksums of every record are compared. Images are
        unpacked once into files.

        Args:
            paths: A file, a folder of `*.tfrecord` or `*.tfrec`, a pattern such as `data/train-*`, or several of these.
            image: Feature with the picture's bytes: JPEG, PNG, GIF, BMP, WebP or TIFF.
            labels: Feature with the class as text or number, or with a list of 1 and 0; or several features, each with
                a 1 or 0. As in `from_csv`, exactly one 1 in each record makes exclusive classes.
            group: Feature that says whose image it is.
            split: Feature with train, val or test; None: where a file's name begins so, it is its split.
            classes: Names for the numbers of the classes, or for the places in the list.
            columns: Features to keep. They leave the machine only because they are named here.
            positive: For two classes, the one to detect.
            dest: The folder to unpack into; None: the cache under `MEDIMG_HOME`.

        Raises:
            DatasetError: A record is damaged or no Example (the file and the record's number are named), or a feature
                is not there (those that are there are listed).
            StorageError: The disk has too little room.
        """
        from medimg.data.readers.tfrecord import FeatureNames, read_tfrecord
        from medimg.progress import Display

        several = [paths] if isinstance(paths, str | Path) else paths
        names = FeatureNames(
            image=image, labels=labels if labels is None or isinstance(labels, str) else tuple(labels), group=group,
            split=split, columns=(columns,) if isinstance(columns, str) else tuple(columns), classes=tuple(classes),
        )  # fmt: skip
        with Display("records") as display:
            return read_tfrecord(
                [Path(path) for path in several], names, positive=positive,
                dest=None if dest is None else Path(dest), report=display,
            )  # fmt: skip
