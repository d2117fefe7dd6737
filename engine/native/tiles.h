// Tiles: sixteen by sixteen products of bfloat16, on AMX or on any vectors, the same to the last bit.
//
// `columns` are words of two bfloat16, [pairs][16]; `rows` are sixteen rows of pairs in memory, as they lie. AMX
// sums the first halves of the pairs in order, then the second halves, and adds both to the total at the end.
// Products of two bfloat16 are exact in float32, so the same order gives the same bits. Only what is too small for
// a normal float32 differs: AMX takes it for zero.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vector.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define SPARKGATE_AMX
#endif

constexpr int kTileRows = 16;
constexpr int kTileDepth = 64;  // bytes of a tile's rows
constexpr int kTile = kTileRows * kTileDepth;

// Whether this process may use AMX; the kernel wants to be asked once.
inline bool ask_for_amx() {
#ifdef SPARKGATE_AMX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#ifdef SPARKGATE_AMX
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// For whole numbers all eight tiles are whole. For bfloat16 six are, the last two take half the depth.
inline void shape_tiles(bool has_halves) {
  static const TileShapes whole;
  static const TileShapes halves = [] {
    TileShapes shapes;
    shapes.row_bytes[6] = 32;
    shapes.rows[7] = 8;
    return shapes;
  }();
  _tile_loadconfig(has_halves ? &halves : &whole);
}

// Tiles read memory behind the compiler's back: what was written must be there.
inline void settle_memory() { asm volatile("" ::: "memory"); }
#endif

// totals [16][16] += rows [16][2 * pairs] x columns [pairs][16]
inline void add_products(const uint16_t* rows, int64_t stride, const uint32_t* columns, int pairs, float* totals) {
  constexpr int kAtOnce = 8;
  constexpr uint32_t kUpper = 0xffff0000u;
  for (int first = 0; first < kTileRows; first += kAtOnce) {
    Floats even[kAtOnce] = {}, odd[kAtOnce] = {};
    for (int pair = 0; pair < pairs; ++pair) {
      const Words both = load_words(columns + pair * kLanes);
      const Floats low = reinterpret<Floats>(both << 16), high = reinterpret<Floats>(both & kUpper);
      for (int row = 0; row < kAtOnce; ++row) {
        uint32_t word;
        std::memcpy(&word, rows + (first + row) * stride + 2 * pair, sizeof(word));
        even[row] += low * reinterpret<float>(word << 16);
        odd[row] += high * reinterpret<float>(word & kUpper);
      }
    }
    for (int row = 0; row < kAtOnce; ++row) {
      float* total = totals + (first + row) * kLanes;
      store(total, load(total) + (even[row] + odd[row]));
    }
  }
}
