// int8 weights, 16-bit rows, exact int32 sums: the matrix product of the forward.
//
// A weight [columns, depth] has one scale for each column and group of the depth; columns come in blocks of 16, depth in fours, as both
// AMX tiles and AVX512-VNNI read them: packed[block][depth / 4][16 columns][4]. A row has one scale of its
// own and is written as 256 * high + low, two rows of bytes: eight bits would cost too much accuracy, and the
// second product uses a weight that is there already. Sixteen rows make a panel: 16 high rows, then 16 low
// ones. The sums are whole numbers, so that the order of adding them, and with it the instructions used and
// the number of rows, makes no difference.
#pragma once
#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <new>

#include "vector.h"

constexpr int kTileRows = 16;   // rows of an AMX tile
constexpr int kTileDepth = 64;  // bytes of its rows
constexpr int kTile = kTileRows * kTileDepth;
constexpr int64_t kGroupTiles = 1;  // tiles along the depth that share a column's scale
constexpr int64_t kHugePage = int64_t(2) << 20;

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory in huge pages where the system grants them: the weights are read from end to end each step.
inline void* huge_allocate(int64_t bytes) {
  void* memory = std::aligned_alloc(kHugePage, round_up(bytes, kHugePage));
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, round_up(bytes, kHugePage), MADV_HUGEPAGE);
#endif
  return memory;
}

// Whether this process may use AMX; the kernel wants to be asked once.
inline bool ask_for_amx() {
#ifdef __AMX_INT8__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

struct Weight {
  int64_t columns = 0, depth = 0;      // as given
  int64_t num_pairs = 0, tiles = 0;    // blocks of columns, two at a time; tiles along the depth
  int8_t* packed = nullptr;
  int64_t num_groups = 0;              // of tiles along the depth
  float* scales = nullptr;             // [num_pairs, num_groups, 32]
  int32_t* offsets = nullptr;          // the same: 128 * sum, for instructions that want unsigned rows

  Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;
  ~Weight() {
    std::free(packed);
    std::free(scales);
    std::free(offsets);
  }

  int64_t padded_depth() const { return tiles * kTileDepth; }
  int64_t last_tile(int64_t group) const {
    const int64_t end = (group + 1) * kGroupTiles;
    return end < tiles ? end : tiles;
  }
  const int8_t* block(int64_t index) const { return packed + index * tiles * kTile; }

  // `source` [columns, depth] is read column by column; `order` tells where a column goes (null: as given).
  void set(const float* source, int64_t num_columns, int64_t given_depth, const int64_t* order) {
    columns = num_columns, depth = given_depth;
    num_pairs = round_up(columns, 32) / 32, tiles = round_up(depth, kTileDepth) / kTileDepth;
    num_groups = (tiles + kGroupTiles - 1) / kGroupTiles;
    packed = static_cast<int8_t*>(huge_allocate(num_pairs * 2 * tiles * kTile));
    scales = static_cast<float*>(std::calloc(num_pairs * num_groups * 32, sizeof(float)));
    offsets = static_cast<int32_t*>(std::calloc(num_pairs * num_groups * 32, sizeof(int32_t)));
    if (scales == nullptr || offsets == nullptr) throw std::bad_alloc();
    std::memset(packed, 0, num_pairs * 2 * tiles * kTile);
#pragma omp parallel for
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t group = 0; group < num_groups; ++group)
        set_group(order == nullptr ? column : order[column], group, source + column * depth);
  }

 private:
  void set_group(int64_t to, int64_t group, const float* values) {
    const int64_t first = group * kGroupTiles * kTileDepth, wanted = first + kGroupTiles * kTileDepth;
    const int64_t last = wanted < depth ? wanted : depth;
    float most = 0.0f;
    for (int64_t at = first; at < last; ++at) most = std::fmax(most, std::fabs(values[at]));
    const float scale = most > 0.0f ? most / 127.0f : 1.0f;
    int8_t* block_start = packed + to / 16 * tiles * kTile + to % 16 * 4;
    int32_t total = 0;
    for (int64_t at = first; at < last; ++at) {
      const int8_t value = static_cast<int8_t>(std::nearbyint(values[at] / scale));
      block_start[at / 4 * 64 + at % 4] = value;
      total += value;
    }
    const int64_t place = (to / 32 * num_groups + group) * 32 + to % 32;
    scales[place] = scale;
    offsets[place] = 128 * total;
  }
};

constexpr float kMost = 32512.0f;  // 127 * 256: what two signed bytes can always hold
constexpr int kPanelRows = 2 * kTileRows;

// Where the high bytes of a row are; the low ones follow kTileRows rows further.
inline int64_t row_offset(int64_t row, int64_t stride) {
  return (row / kTileRows * kPanelRows + row % kTileRows) * stride;
}

inline int64_t bytes_for(int64_t rows, int64_t stride) { return round_up(rows, kTileRows) * 2 * stride; }

// Row number `row` of `rows` as bytes in its panel; returns its scale.
inline float quantise(const float* values, int64_t depth, int64_t row, int64_t stride, int8_t* panels) {
  Floats most = Floats{};
  for (int64_t at = 0; at < depth; at += kLanes) most = larger(most, absolute(load(values + at)));
  const float peak = largest(most);
  const float inverse = peak > 0.0f ? kMost / peak : 0.0f;
  int8_t *high = panels + row_offset(row, stride), *low = high + kTileRows * stride;
  for (int64_t at = 0; at < depth; at += kLanes) {
    const Ints whole = __builtin_convertvector(nearest(load(values + at) * inverse), Ints);
    const Ints upper = (whole + 128) >> 8;
    *reinterpret_cast<Bytes*>(high + at) = __builtin_convertvector(upper, Bytes);
    *reinterpret_cast<Bytes*>(low + at) = __builtin_convertvector(whole - upper * 256, Bytes);
  }
  return peak / kMost;
}

struct Sums {
  int32_t of[kPanelRows][32];  // [row of the panel][column] of one pair of blocks
};

#ifdef __AMX_INT8__
// The shapes of all eight tiles: 16 rows of 64 bytes.
inline void start_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shapes;
  _tile_loadconfig(&shapes);
}

// A panel against one pair of blocks; rows without meaning are multiplied too, which costs nothing.
inline void multiply_amx(const Weight& weight, int64_t pair, int64_t group, const int8_t* panel, Sums& sums) {
  const int64_t stride = weight.padded_depth();
  const int8_t *left = weight.block(2 * pair), *right = weight.block(2 * pair + 1);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t last = weight.last_tile(group);
  for (int64_t tile = group * kGroupTiles; tile < last; ++tile) {
    _tile_loadd(4, panel + tile * kTileDepth, stride);
    _tile_loadd(5, panel + kTileRows * stride + tile * kTileDepth, stride);
    _tile_loadd(6, left + tile * kTile, kTileDepth);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(2, 5, 6);
    _tile_loadd(7, right + tile * kTile, kTileDepth);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, &sums.of[0][0], sizeof(sums.of[0]));
  _tile_stored(1, &sums.of[0][16], sizeof(sums.of[0]));
  _tile_stored(2, &sums.of[kTileRows][0], sizeof(sums.of[0]));
  _tile_stored(3, &sums.of[kTileRows][16], sizeof(sums.of[0]));
}
#endif

#if defined(__AVX512VNNI__)
// `Count` rows against one pair of blocks. The rows are made unsigned by adding 128, taken back at the end.
template <int Count>
inline void multiply_some(const Weight& weight, int64_t pair, int64_t group, const int8_t* rows,
                          int32_t (*sums)[32]) {
  const int64_t first = group * kGroupTiles * kTileDepth, last = weight.last_tile(group) * kTileDepth;
  const int64_t stride = weight.padded_depth();
  const int8_t *left = weight.block(2 * pair), *right = weight.block(2 * pair + 1);
  __m512i totals[Count][2] = {};
  for (int64_t at = first; at < last; at += 4) {
    const __m512i low = _mm512_loadu_si512(left + at * 16), high = _mm512_loadu_si512(right + at * 16);
    for (int row = 0; row < Count; ++row) {
      uint32_t four;
      std::memcpy(&four, rows + row * stride + at, 4);
      const __m512i value = _mm512_set1_epi32(static_cast<int>(four ^ 0x80808080u));
      totals[row][0] = _mm512_dpbusd_epi32(totals[row][0], value, low);
      totals[row][1] = _mm512_dpbusd_epi32(totals[row][1], value, high);
    }
  }
  const __m512i low = _mm512_loadu_si512(weight.offsets + (pair * weight.num_groups + group) * 32);
  const __m512i high = _mm512_loadu_si512(weight.offsets + (pair * weight.num_groups + group) * 32 + 16);
  for (int row = 0; row < Count; ++row) {
    _mm512_storeu_si512(&sums[row][0], _mm512_sub_epi32(totals[row][0], low));
    _mm512_storeu_si512(&sums[row][16], _mm512_sub_epi32(totals[row][1], high));
  }
}
#else
template <int Count>
inline void multiply_some(const Weight& weight, int64_t pair, int64_t group, const int8_t* rows,
                          int32_t (*sums)[32]) {
  const int64_t first = group * kGroupTiles * kTileDepth, last = weight.last_tile(group) * kTileDepth;
  const int64_t stride = weight.padded_depth();
  for (int row = 0; row < Count; ++row)
    for (int half = 0; half < 2; ++half) {
      const int8_t* block = weight.block(2 * pair + half);
      int32_t totals[16] = {};
      for (int64_t at = first; at < last; at += 4)
        for (int column = 0; column < 16; ++column)
          for (int part = 0; part < 4; ++part)
            totals[column] += int32_t(rows[row * stride + at + part]) * block[at * 16 + column * 4 + part];
      std::memcpy(&sums[row][half * 16], totals, sizeof(totals));
    }
}
#endif

inline void multiply_plain(const Weight& weight, int64_t pair, int64_t group, const int8_t* panel, int64_t num_rows,
                           Sums& sums) {
  const int64_t stride = weight.padded_depth();
  for (int64_t start = 0; start < kPanelRows; start += kTileRows) {
    int64_t row = start;
    const int64_t end = start + num_rows;
    for (; row + 8 <= end; row += 8) multiply_some<8>(weight, pair, group, panel + row * stride, sums.of + row);
    for (; row + 4 <= end; row += 4) multiply_some<4>(weight, pair, group, panel + row * stride, sums.of + row);
    for (; row < end; ++row) multiply_some<1>(weight, pair, group, panel + row * stride, sums.of + row);
  }
}

// Sixteen sums of a row, still without its scale and the columns'.
inline Floats join(const int32_t* high, const int32_t* low) {
  const Floats upper = __builtin_convertvector(*reinterpret_cast<const Ints*>(high), Floats);
  return upper * 256.0f + __builtin_convertvector(*reinterpret_cast<const Ints*>(low), Floats);
}

// Up to sixteen rows against one pair of blocks: totals [row][32], scaled but for the rows' own scales.
inline void multiply_panel(const Weight& weight, int64_t pair, const int8_t* panel, int64_t count, bool has_amx,
                           float (*totals)[32]) {
  alignas(64) Sums sums;
  for (int64_t group = 0; group < weight.num_groups; ++group) {
#ifdef __AMX_INT8__
    if (has_amx)
      multiply_amx(weight, pair, group, panel, sums);
    else
#endif
      multiply_plain(weight, pair, group, panel, count, sums);
    const float* scales = weight.scales + (pair * weight.num_groups + group) * 32;
    const Floats left = load(scales), right = load(scales + 16);
    for (int64_t at = 0; at < count; ++at) {
      const int32_t *high = sums.of[at], *low = sums.of[at + kTileRows];
      const Floats before_left = group == 0 ? Floats{} : load(totals[at]);
      const Floats before_right = group == 0 ? Floats{} : load(totals[at] + 16);
      store(totals[at], before_left + join(high, low) * left);
      store(totals[at] + 16, before_right + join(high + 16, low + 16) * right);
    }
  }
}

// This thread's share of rows [num_rows] x weight. `finish(row, pair, left, right)` gets the products of a row
// with the 32 columns of a pair of blocks, scaled but for the row's own scale.
template <class Finish>
inline void multiply(const Weight& weight, const int8_t* panels, int64_t num_rows, bool has_amx, Finish finish) {
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  const int64_t first = weight.num_pairs * thread / threads, last = weight.num_pairs * (thread + 1) / threads;
  float totals[kTileRows][32];
  for (int64_t pair = first; pair < last; ++pair)
    for (int64_t row = 0; row < num_rows; row += kTileRows) {
      const int64_t count = num_rows - row < kTileRows ? num_rows - row : kTileRows;
      multiply_panel(weight, pair, panels + row_offset(row, weight.padded_depth()), count, has_amx, totals);
      for (int64_t at = 0; at < count; ++at) finish(row + at, pair, load(totals[at]), load(totals[at] + 16));
    }
}
