"""Tiny archives in the exact layout of every published dataset, to be served like a mirror."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.datasets.archives.packing import coop_split, numbered, picture, tar_bytes, write_tar, write_zip


def caltech101(root: Path) -> None:
    folders = {"Faces": "face", "accordion": "accordion", "wild_cat": "wild_cat"}
    images = numbered(folders, lambda folder, number: f"{folder}/image_{number:04d}.jpg")
    images["Faces/image_0001.jpg"] = picture(100, "L")
    extra = {"BACKGROUND_Google/image_0001.jpg": picture(101), "BACKGROUND_Google/tmp": b"stray"}
    extra |= {"Faces_easy/image_0001.jpg": picture(102)}
    inner = {f"101_ObjectCategories/{name}": content for name, content in (images | extra).items()}
    write_zip(
        root / "caltech101/caltech-101.zip",
        {
            "caltech-101/101_ObjectCategories.tar.gz": tar_bytes(inner, "w:gz"),
            "caltech-101/Annotations.tar": tar_bytes({"Annotations/Faces/annotation_0001.mat": b"m"}),
        },
    )
    coop_split(root / "caltech101/split_zhou_Caltech101.json", folders, lambda folder, n: f"{folder}/image_{n:04d}.jpg")


def caltech101_mini(root: Path) -> None:
    caltech101(root)


def oxford_pets(root: Path) -> None:
    breeds = {"Abyssinian": "abyssinian", "beagle": "beagle"}
    images = {f"images/{name}": content for name, content in numbered(breeds, _flat).items()}
    images["images/Abyssinian_1.jpg"] = picture(7, kind="PNG")
    images |= {"images/._Abyssinian_1.jpg": b"junk", "images/Abyssinian_1.mat": b"junk"}
    write_tar(root / "oxford_pets/images.tar.gz", images, "w:gz")
    coop_split(root / "oxford_pets/split_zhou_OxfordPets.json", breeds, _flat)


def dtd(root: Path) -> None:
    textures = {"banded": "banded", "polka-dotted": "polka-dotted"}
    images = {f"dtd/images/{name}": content for name, content in numbered(textures, _inside).items()}
    labels = {"dtd/labels/test1.txt": "".join(f"{_inside(folder, 6)}\n" for folder in textures).encode()}
    write_tar(root / "dtd/dtd-r1.0.1.tar.gz", images | labels | {"dtd/labels/test10.txt": b"banded/no.jpg\n"}, "w:gz")
    coop_split(root / "dtd/split_zhou_DescribableTextures.json", textures, _inside)


def eurosat(root: Path) -> None:
    lands = {"AnnualCrop": "Annual Crop Land", "Forest": "Forest"}
    images = {f"2750/{name}": content for name, content in numbered(lands, _inside).items()}
    write_zip(root / "eurosat/EuroSAT.zip", images)
    coop_split(root / "eurosat/split_zhou_EuroSAT.json", lands, _inside)


def fgvc_aircraft(root: Path) -> None:
    top, variants = "fgvc-aircraft-2013b/data", ("A300B4", "707-320")
    files = {f"{top}/variants.txt": "".join(f"{name}\n" for name in variants).encode()}
    for start, split in ((1, "train"), (3, "val"), (5, "test")):
        rows = [(f"{start + number:07d}", name) for number, name in enumerate(variants)]
        files[f"{top}/images_variant_{split}.txt"] = "".join(f"{key} {name}\n" for key, name in rows).encode()
        files |= {f"{top}/images/{key}.jpg": picture(int(key)) for key, _ in rows}
    write_tar(root / "fgvc_aircraft/fgvc-aircraft-2013b.tar.gz", files, "w:gz")


def food101(root: Path) -> None:
    dishes = {"apple_pie": "apple_pie", "waffles": "waffles"}
    files = {f"food-101/images/{name}": content for name, content in numbered(dishes, _inside).items()}
    test = {dish: [_inside(dish, 2).removesuffix(".jpg")] for dish in dishes}
    files["food-101/meta/test.json"] = json.dumps(test).encode()
    write_tar(root / "food101/food-101.tar.gz", files, "w:gz")
    coop_split(root / "food101/split_zhou_Food101.json", dishes, _inside)


def flowers102(root: Path) -> None:
    def name_of(flower: str, number: int) -> str:
        return f"image_{6 * int(flower) + number:05d}.jpg"

    flowers = {"0": "pink primrose", "1": "colt's foot"}
    write_tar(
        root / "flowers102/102flowers.tgz",
        {f"jpg/{name}": content for name, content in numbered(flowers, name_of).items()},
        "w:gz",
    )
    savemat(root / "flowers102/imagelabels.mat", {"labels": np.array([[1] * 6 + [2] * 6])})
    savemat(root / "flowers102/setid.mat", {"trnid": [[1, 7]], "valid": [[2, 8]], "tstid": [[3, 12]]})
    coop_split(root / "flowers102/split_zhou_OxfordFlowers.json", flowers, name_of)


def stanford_cars(root: Path) -> None:
    def name_of(car: str, number: int) -> str:
        return f"cars_{'test' if number > 4 else 'train'}/{10 * int(car) + number:05d}.jpg"

    cars = {"0": "2012 Audi TTS Coupe", "1": "2007 Dodge Dakota Club-Cab"}
    images = numbered(cars, name_of)
    for part in ("train", "test"):
        files = {name: content for name, content in images.items() if part in name}
        write_tar(root / f"stanford_cars/cars_{part}.tgz", files, "w:gz")
    coop_split(root / "stanford_cars/split_zhou_StanfordCars.json", cars, name_of)


def sun397(root: Path) -> None:
    scenes = {"a/abbey": "abbey", "a/apartment_building/outdoor": "outdoor apartment_building"}
    images = {f"SUN397/{name}": content for name, content in numbered(scenes, _inside, 7).items()}
    write_tar(root / "sun397/SUN397.tar.gz", images | {"SUN397/ClassName.txt": b"/a/abbey\n"}, "w:gz")
    coop_split(root / "sun397/split_zhou_SUN397.json", scenes, _inside)


def ucf101(root: Path) -> None:
    actions = {"Apply_Eye_Makeup": "Apply_Eye_Makeup", "Yo_Yo": "Yo_Yo"}
    images = {f"UCF-101-midframes/{name}": content for name, content in numbered(actions, _inside).items()}
    write_zip(root / "ucf101/UCF-101-midframes.zip", images)
    coop_split(root / "ucf101/split_zhou_UCF101.json", actions, _inside)


def caltech256(root: Path) -> None:
    top = "256_ObjectCategories"
    names = ["001.ak47/001_0001.jpg", "001.ak47/001_0002.jpg", "002.tennis-shoes-101/002_0001.jpg"]
    files = {f"{top}/{name}": picture(row) for row, name in enumerate([*names, "003.clutter/003_0001.jpg"])}
    stray = {f"{top}/002.tennis-shoes-101/greg/vision.jpg": b"stray", f"{top}/001.ak47/RENAME2": b"stray"}
    write_tar(root / "caltech256/256_ObjectCategories.tar", files | stray)


def imagenet(root: Path) -> None:
    wnids = ["n01443537", "n01440764", "n07753592"]  # not in the order of the labels
    synsets = np.empty((3, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    for row, wnid in enumerate(wnids):
        synsets[row, 0] = (row + 1, wnid)
    meta, top = io.BytesIO(), "ILSVRC2012_devkit_t12/data"
    savemat(meta, {"synsets": synsets})
    devkit = {f"{top}/meta.mat": meta.getvalue(), f"{top}/ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n1\n"}
    write_tar(root / "imagenet/ILSVRC2012_devkit_t12.tar.gz", devkit, "w:gz")
    val = {f"ILSVRC2012_val_{number:08d}.JPEG": picture(number) for number in range(1, 5)}
    write_tar(root / "imagenet/ILSVRC2012_img_val.tar", val)
    inner = {wnid: {f"{wnid}_{number}.JPEG": picture(10 + number) for number in range(5)} for wnid in wnids}
    train = {f"{wnid}.tar": tar_bytes(files) for wnid, files in inner.items()}
    write_tar(root / "imagenet/ILSVRC2012_img_train.tar", train)


def imagenet_v2(root: Path) -> None:
    top = "imagenetv2-matched-frequency-format-val"
    files = {f"{top}/{label}/{row}.jpeg": picture(row) for row, label in enumerate((0, 1, 2, 10, 999))}
    write_tar(root / "imagenet_v2/imagenetv2-matched-frequency.tar.gz", files, "w:gz")


def imagenet_a(root: Path) -> None:
    write_tar(root / "imagenet_a/imagenet-a.tar", _synsets("imagenet-a"))


def imagenet_r(root: Path) -> None:
    write_tar(root / "imagenet_r/imagenet-r.tar", _synsets("imagenet-r"))


def imagenet_sketch(root: Path) -> None:
    write_zip(root / "imagenet_sketch/ImageNet-Sketch.zip", _synsets("sketch"))


def cifar10(root: Path) -> None:
    names = {b"label_names": [b"airplane", b"automobile"]}
    _cifar(root / "cifar10/cifar-10-python.tar.gz", "cifar-10-batches-py", names, b"labels", "batches.meta")


def photos(root: Path) -> None:
    if not (root / "cifar10").exists():  # the same archive, whichever of the two is fetched first
        cifar10(root)


def photo_pairs(root: Path) -> None:
    photos(root)


def cifar100(root: Path) -> None:
    names = {b"fine_label_names": [b"apple", b"aquarium_fish"], b"coarse_label_names": [b"fruit"]}
    _cifar(root / "cifar100/cifar-100-python.tar.gz", "cifar-100-python", names, b"fine_labels", "meta")


def stl10(root: Path) -> None:
    files = {"stl10_binary/class_names.txt": b"airplane\nbird\n"}
    for split in ("train", "test"):
        pixels = np.zeros((2, 3, 96, 96), np.uint8)
        pixels[:, 0, 10, 80] = 255  # a red dot at column 10, row 80
        files |= {f"stl10_binary/{split}_X.bin": pixels.tobytes(), f"stl10_binary/{split}_y.bin": bytes([2, 1])}
    write_tar(root / "stl10/stl10_binary.tar.gz", files, "w:gz")


def country211(root: Path) -> None:
    (root / "country211").mkdir(parents=True)
    (root / "country211/classnames.txt").write_text("Andorra\nUnited Arab Emirates\n")
    _shards(root / "country211", 4, "jpg", lambda row: {"cls": str(row % 2)})


def pcam(root: Path) -> None:
    _shards(root / "pcam", 7, "webp", lambda row: {"cls": str(row % 2)})


def flickr30k(root: Path) -> None:
    _shards(root / "flickr30k", 5, "jpg", lambda row: {"txt": "\n".join(f"caption {k} of {row}" for k in range(5))})


def coco_captions(root: Path) -> None:
    _coco_images(root)
    images = [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}, {"id": 9, "file_name": _coco(9)}]
    texts = [(9, "a dog"), (42, "a cat\nwith a hat"), (9, "some dog")]
    content = {"images": images, "annotations": [{"image_id": key, "caption": text} for key, text in texts]}
    (root / "coco/coco_test_karpathy.json").write_text(json.dumps(content))


def vqav2(root: Path) -> None:
    _coco_images(root)
    train = [_coco(identity, "train") for identity in (5, 7, 8)]
    write_zip(root / "coco/train2014.zip", {f"train2014/{name}": picture(row) for row, name in enumerate(train)})
    val = [(42, "What is it?", 420), (9, "How many?", 90), (42, "Is it red?", 421)]
    more = [(7, "What colour?", 71), (5, "Where is it?", 50), (7, "Is it old?", 70), (5, "Who is it?", 51)]
    for name, part, asked in (("Val", "val", val), ("Train", "train", more)):
        questions = {"questions": [{"image_id": i, "question": q, "question_id": n} for i, q, n in asked]}
        answers = {
            "annotations": [
                {"question_id": n, "image_id": i, "answers": [{"answer": f"{n}-{k}"} for k in range(10)]}
                for i, _, n in reversed(asked)
            ]
        }
        for archive, file, content in (
            (f"v2_Questions_{name}_mscoco.zip", f"v2_OpenEnded_mscoco_{part}2014_questions.json", questions),
            (f"v2_Annotations_{name}_mscoco.zip", f"v2_mscoco_{part}2014_annotations.json", answers),
        ):
            write_zip(root / "coco" / archive, {file: json.dumps(content).encode()})


def coco_objects(root: Path) -> None:
    names = ("000000000285.jpg", "000000001584.jpg")
    write_zip(root / "coco_objects/val2017.zip", {f"val2017/{name}": picture(row) for row, name in enumerate(names)})
    for what, key, texts in (
        ("object_descriptions_main", "caption", [["Grizzly bear: A large brown bear."], ["Bus: red: and tall."]]),
        ("target_obj_sim", "replace", [["lion: A lion."], ["Trolley: A trolley car."]]),
        ("vqa_main", "vqa", [["What animal is it?", "Who sits there?", "Which is it?"], ["a?", "b?", "c?"]]),
    ):
        content = [{"image": name, key: text} for name, text in zip(names, texts, strict=True)]
        (root / f"coco_objects/coco300_{what}.json").write_text(json.dumps(content))


def cc3m(root: Path, shards: int = 2) -> None:
    for shard in range(shards):
        files = dict[str, bytes]()
        for row in range(4):
            key = f"{shard:05d}{row:04d}"
            files[f"{key}.jpg"] = picture(10 * shard + row) if (shard, row) != (0, 2) else b"not an image"
            files[f"{key}.json"] = b"{}"
            files[f"{key}.txt"] = f"caption {shard} {row}".encode()
        write_tar(root / f"cc3m/cc3m-train-{shard:04d}.tar", files)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    layout.__name__: layout
    for layout in (
        caltech101, caltech101_mini, caltech256, cc3m, cifar10, cifar100, coco_captions, coco_objects, country211, dtd,
        eurosat, fgvc_aircraft, flickr30k, flowers102, food101, imagenet, imagenet_a, imagenet_r, imagenet_sketch,
        imagenet_v2, oxford_pets, pcam, photo_pairs, photos, stanford_cars, stl10, sun397, ucf101, vqav2,
    )
}  # fmt: skip


def _flat(folder: str, number: int) -> str:
    return f"{folder}_{number}.jpg"


def _inside(folder: str, number: int) -> str:
    return f"{folder}/{folder.replace('/', '_')}_{number}.jpg"


def _synsets(top: str) -> dict[str, bytes]:
    wnids = ("n07753592", "n01440764", "n01498041")
    files = {f"{top}/{wnid}/{wnid}_{number}.jpg": picture(number) for wnid in wnids for number in range(2)}
    return files | {f"{top}/README.txt": b"read me"}


def _cifar(path: Path, top: str, names: dict[bytes, list[bytes]], label: bytes, meta: str) -> None:
    parts = ["train", "test"] if meta == "meta" else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {f"{top}/{meta}": pickle.dumps(names, 2)}
    for number, part in enumerate(parts):
        pixels = np.zeros((2, 3, 32, 32), np.uint8)
        pixels[:, 0, 3, 20] = 100 + number  # a red dot at row 3, column 20
        files[f"{top}/{part}"] = pickle.dumps({b"data": pixels.reshape(2, -1), label: [1, 0]}, 2)
    write_tar(path, files, "w:gz")


def _shards(folder: Path, count: int, kind: str, texts: Callable[[int], dict[str, str]]) -> None:
    for shard in range(count):
        files = dict[str, bytes]()
        for row in (2 * shard, 2 * shard + 1):
            image = picture(row, kind={"jpg": "JPEG", "webp": "WEBP"}[kind])
            files |= {f"s{row:07d}.{kind}": image} | {
                f"s{row:07d}.{extension}": text.encode() for extension, text in texts(row).items()
            }
        write_tar(folder / f"test-{shard}.tar", files)


def _coco(identity: int, part: str = "val") -> str:
    return f"COCO_{part}2014_{identity:012d}.jpg"


def _coco_images(root: Path) -> None:
    write_zip(root / "coco/val2014.zip", {f"val2014/{_coco(identity)}": picture(identity) for identity in (9, 42, 77)})
