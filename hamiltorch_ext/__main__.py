"""``python -m hamiltorch_ext``: a report to read, or to paste into an issue."""

from .build import build_info


def main() -> None:
    """Print ``build_info()``, one line an entry."""
    info = build_info()
    message = info.pop("cuda_message")
    info["cuda_device"] = info["cuda_device"] or f"none: {message}"
    for name, value in info.items():
        print(f"{name:<20}{', '.join(value) or 'none' if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()
