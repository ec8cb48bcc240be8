#!/usr/bin/env python3
"""Relative L2 error of F(4x4,3x3) with bf16 operands for some interpolation points, and the least that any points reach. Needs numpy."""
import numpy as np

IMAGES, SIDE, CHANNELS = 4, 16, 64
TILES = SIDE // 4


def transforms(points):
    """Aᵀ [4,6], G [6,3], Bᵀ [6,6] for five points and infinity."""
    at = np.array([[a**i for a in points] + [float(i == 3)] for i in range(4)])
    g, bt = np.zeros((6, 3)), np.zeros((6, 6))
    for j, a in enumerate(points):
        others = [b for b in points if b != a]
        g[j] = np.array([1, a, a * a]) / np.prod([a - b for b in others])
        bt[j, :5] = np.poly(others)[::-1]
    g[5], bt[5] = [0, 0, 1], np.poly(points)[::-1]
    return at, g, bt


def amplification(points):
    """How much the squared error of rounded operands grows on one side of a tile, where all values are independent and of mean zero."""
    at, g, bt = transforms(points)
    return np.sum((at**2).sum(0) * (g**2).sum(1) * (bt**2).sum(1)) / 12


def least_amplification(rng):
    """Walks downhill from several random starts, over all sets of five points."""
    found = []
    for _ in range(8):
        points, step = rng.standard_normal(5), 0.5
        value = amplification(points)
        for _ in range(3000):
            near = points + step * rng.standard_normal(5)
            of_near = amplification(near)
            step = max(step * (1.1 if of_near < value else 0.98), 1e-4)
            if of_near < value:
                points, value = near, of_near
        found.append((value, sorted(points)))
    return min(found)


def bf16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def bf16_together(u, at, bt):
    """Transformed weights [6,6,k,c] in bf16, each rounded after what the errors of the later ones do to the results is taken off it."""
    factor = np.linalg.cholesky((at.T @ at) * (bt @ bt.T)).T
    factor /= np.diag(factor)[:, None]
    rounded, errors = np.zeros_like(u), np.zeros_like(u)
    for i in reversed(range(6)):
        for j in reversed(range(6)):
            of_later = np.einsum("a,b,abkc->kc", factor[i], factor[j], errors)
            rounded[i, j] = bf16(u[i, j] - of_later)
            errors[i, j] = rounded[i, j] - u[i, j]
    return rounded


def error(got, want):
    return 100 * np.linalg.norm(got - want) / np.linalg.norm(want)


def main():
    rng = np.random.default_rng(0)
    x = bf16(np.maximum(rng.standard_normal((IMAGES, SIDE, SIDE, CHANNELS)), 0))
    w = rng.standard_normal((CHANNELS, 3, 3, CHANNELS)) * np.sqrt(2 / (9 * CHANNELS))
    grad = bf16(rng.standard_normal((IMAGES, SIDE, SIDE, CHANNELS)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y, dx, dw = np.zeros_like(grad), np.zeros_like(padded), np.zeros_like(w)
    for r in range(3):
        for s in range(3):
            window = padded[:, r : r + SIDE, s : s + SIDE]
            y += np.einsum("nhwc,kc->nhwk", window, w[:, r, s])
            dx[:, r : r + SIDE, s : s + SIDE] += np.einsum("nhwk,kc->nhwc", grad, w[:, r, s])
            dw[:, r, s] = np.einsum("nhwk,nhwc->kc", grad, window)

    patches = np.stack([[padded[:, 4 * i : 4 * i + 6, 4 * j : 4 * j + 6] for j in range(TILES)]
                        for i in range(TILES)])
    tiles = grad.reshape(IMAGES, TILES, 4, TILES, 4, CHANNELS).transpose(1, 3, 0, 2, 4, 5)
    for p, q in [(1, 2), (1 / 2, 3 / 2), (2**-0.5, 2**0.5), (5 / 8, 3 / 2), (2 / 3, 3 / 2)]:
        points = [0, p, -p, q, -q]
        at, g, bt = transforms(points)
        exact = np.einsum("ir,krsc,js->ijkc", g, w, g)
        v = bf16(np.einsum("ia,xynabc,jb->xynijc", bt, patches, bt))
        d = bf16(np.einsum("ai,xynabk,bj->xynijk", at, tiles, at))
        got_dw = np.einsum("ir,ijkc,js->krsc", g, np.einsum("xynijk,xynijc->ijkc", d, v), g)
        print(f"0, ±{p:.3f}, ±{q:.3f}: weight gradient {error(got_dw, dw):.2f} %, amplification {amplification(points):.3f}")
        for how, u in [("alone", bf16(exact)), ("together", bf16_together(exact, at, bt))]:
            m = np.einsum("xynijc,ijkc->xynijk", v, u)
            got_y = np.einsum("ai,xynijk,bj->xynabk", at, m, at)
            got_y = got_y.transpose(2, 0, 3, 1, 4, 5).reshape(y.shape)
            parts = np.einsum("ia,xynijc,jb->xynabc", bt, np.einsum("xynijk,ijkc->xynijc", d, u), bt)
            got_dx = np.zeros_like(dx)
            for i in range(TILES):
                for j in range(TILES):
                    got_dx[:, 4 * i : 4 * i + 6, 4 * j : 4 * j + 6] += parts[i, j]
            inner = np.s_[:, 1:-1, 1:-1]
            print(f"    weights rounded {how}: forward {error(got_y, y):.2f} %, data gradient {error(got_dx[inner], dx[inner]):.2f} %")
    value, points = least_amplification(rng)
    print(f"least amplification found: {value:.3f}, at {', '.join(f'{p:.3f}' for p in points)} and infinity")


if __name__ == "__main__":
    main()
