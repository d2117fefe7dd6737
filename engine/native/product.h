// int8 weights, 16-bit rows, exact int32 sums: the matrix product of the forward.
//
// A weight [columns, depth] has one scale for each column and 64 of the depth; columns come in blocks of 16,
// depth in fours, as both AMX tiles and AVX512-VNNI read them: packed[block][depth / 4][16 columns][4]. A row has
// one scale of its own and is written as 256 * high + low, two rows of bytes: eight bits would cost too much
// accuracy, and the second product uses a weight that is there already. Sixteen rows make a panel, [tile of the
// depth][16 high rows, then 16 low ones][64]. The sums are whole numbers, so that the order of adding them, and
// with it the instructions used and the number of rows, makes no difference.
#pragma once
#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <new>

#include "tiles.h"

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

struct Weight {
  int64_t columns = 0, depth = 0;    // as given
  int64_t num_pairs = 0, tiles = 0;  // blocks of columns, two at a time; tiles along the depth
  int8_t* packed = nullptr;
  float* scales = nullptr;     // [num_pairs, tiles, 32]
  int32_t* offsets = nullptr;  // the same: 128 * sum, for instructions that want unsigned rows

  Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;
  ~Weight() {
    std::free(packed);
    std::free(scales);
    std::free(offsets);
  }

  int64_t padded_depth() const { return tiles * kTileDepth; }
  const int8_t* block(int64_t index) const { return packed + index * tiles * kTile; }

  // `source` [columns, depth] is read column by column; `order` tells where a column goes (null: as given).
  void set(const float* source, int64_t num_columns, int64_t given_depth, const int64_t* order) {
    columns = num_columns, depth = given_depth;
    num_pairs = round_up(columns, 32) / 32, tiles = round_up(depth, kTileDepth) / kTileDepth;
    packed = static_cast<int8_t*>(huge_allocate(num_pairs * 2 * tiles * kTile));
    scales = static_cast<float*>(std::calloc(num_pairs * tiles * 32, sizeof(float)));
    offsets = static_cast<int32_t*>(std::calloc(num_pairs * tiles * 32, sizeof(int32_t)));
    if (scales == nullptr || offsets == nullptr) throw std::bad_alloc();
    std::memset(packed, 0, num_pairs * 2 * tiles * kTile);
#pragma omp parallel for
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t tile = 0; tile < tiles; ++tile)
        set_tile(order == nullptr ? column : order[column], tile, source + column * depth);
  }

 private:
  void set_tile(int64_t to, int64_t tile, const float* values) {
    const int64_t first = tile * kTileDepth, wanted = first + kTileDepth;
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
    const int64_t place = (to / 32 * tiles + tile) * 32 + to % 32;
    scales[place] = scale;
    offsets[place] = 128 * total;
  }
};

constexpr float kMost = 32512.0f;  // 127 * 256: what two signed bytes can always hold
constexpr int kPanelRows = 2 * kTileRows, kPanelTile = 2 * kTile;

// Where the high bytes of a row begin; its next 64 are a tile of the panel further, its low ones half a tile.
inline int64_t row_offset(int64_t row, int64_t padded_depth) {
  return row / kTileRows * kPanelRows * padded_depth + row % kTileRows * kTileDepth;
}

inline int64_t bytes_for(int64_t rows, int64_t padded_depth) { return round_up(rows, kTileRows) * 2 * padded_depth; }

// Row number `row` of `rows` as bytes in its panel; returns its scale.
inline float quantise(const float* values, int64_t depth, int64_t row, int64_t padded_depth, int8_t* panels) {
  Floats most = Floats{};
  for (int64_t at = 0; at < depth; at += kLanes) most = larger(most, absolute(load(values + at)));
  const float peak = largest(most);
  const float inverse = peak > 0.0f ? kMost / peak : 0.0f;
  int8_t* bytes = panels + row_offset(row, padded_depth);
  for (int64_t at = 0; at < depth; at += kLanes) {
    const Ints whole = __builtin_convertvector(nearest(load(values + at) * inverse), Ints);
    const Ints upper = (whole + 128) >> 8;
    int8_t* high = bytes + at / kTileDepth * kPanelTile + at % kTileDepth;
    *reinterpret_cast<Bytes*>(high) = __builtin_convertvector(upper, Bytes);
    *reinterpret_cast<Bytes*>(high + kTile) = __builtin_convertvector(whole - upper * 256, Bytes);
  }
  return peak / kMost;
}

struct Sums {
  int32_t of[kPanelRows][32];  // [row of the panel][column] of one pair of blocks
};

#ifdef SPARKGATE_AMX
// One tile of a panel's depth against some pairs of blocks; rows without meaning cost nothing.
template <int Pairs>
inline void multiply_amx(const Weight& weight, int64_t pair, int64_t tile, const int8_t* rows, Sums* sums) {
  _tile_loadd(4, rows, kTileDepth);
  _tile_loadd(5, rows + kTile, kTileDepth);
  for (int at = 0; at < Pairs; ++at) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(6, weight.block(2 * (pair + at)) + tile * kTile, kTileDepth);
    _tile_loadd(7, weight.block(2 * (pair + at) + 1) + tile * kTile, kTileDepth);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(3, 5, 7);
    _tile_stored(0, &sums[at].of[0][0], sizeof(sums[at].of[0]));
    _tile_stored(1, &sums[at].of[0][16], sizeof(sums[at].of[0]));
    _tile_stored(2, &sums[at].of[kTileRows][0], sizeof(sums[at].of[0]));
    _tile_stored(3, &sums[at].of[kTileRows][16], sizeof(sums[at].of[0]));
  }
}
#endif

#if defined(__AVX512VNNI__)
// `Count` rows against one pair of blocks. The rows are made unsigned by adding 128, taken back at the end.
template <int Count>
inline void multiply_some(const Weight& weight, int64_t pair, int64_t tile, const int8_t* rows,
                          int32_t (*sums)[32]) {
  const int8_t *left = weight.block(2 * pair) + tile * kTile, *right = weight.block(2 * pair + 1) + tile * kTile;
  __m512i totals[Count][2] = {};
  for (int at = 0; at < kTileDepth; at += 4) {
    const __m512i low = _mm512_loadu_si512(left + at * 16), high = _mm512_loadu_si512(right + at * 16);
    for (int row = 0; row < Count; ++row) {
      uint32_t four;
      std::memcpy(&four, rows + row * kTileDepth + at, 4);
      const __m512i value = _mm512_set1_epi32(static_cast<int>(four ^ 0x80808080u));
      totals[row][0] = _mm512_dpbusd_epi32(totals[row][0], value, low);
      totals[row][1] = _mm512_dpbusd_epi32(totals[row][1], value, high);
    }
  }
  const __m512i low = _mm512_loadu_si512(weight.offsets + (pair * weight.tiles + tile) * 32);
  const __m512i high = _mm512_loadu_si512(weight.offsets + (pair * weight.tiles + tile) * 32 + 16);
  for (int row = 0; row < Count; ++row) {
    _mm512_storeu_si512(&sums[row][0], _mm512_sub_epi32(totals[row][0], low));
    _mm512_storeu_si512(&sums[row][16], _mm512_sub_epi32(totals[row][1], high));
  }
}
#else
template <int Count>
inline void multiply_some(const Weight& weight, int64_t pair, int64_t tile, const int8_t* rows,
                          int32_t (*sums)[32]) {
  for (int row = 0; row < Count; ++row)
    for (int half = 0; half < 2; ++half) {
      const int8_t* block = weight.block(2 * pair + half) + tile * kTile;
      int32_t totals[16] = {};
      for (int at = 0; at < kTileDepth; at += 4)
        for (int column = 0; column < 16; ++column)
          for (int part = 0; part < 4; ++part)
            totals[column] += int32_t(rows[row * kTileDepth + at + part]) * block[at * 16 + column * 4 + part];
      std::memcpy(&sums[row][half * 16], totals, sizeof(totals));
    }
}
#endif

inline void multiply_plain(const Weight& weight, int64_t pair, int64_t tile, const int8_t* rows, int64_t num_rows,
                           Sums& sums) {
  for (int64_t start = 0; start < kPanelRows; start += kTileRows) {
    int64_t row = start;
    const int64_t end = start + num_rows;
    auto from = [&] { return rows + row * kTileDepth; };
    for (; row + 8 <= end; row += 8) multiply_some<8>(weight, pair, tile, from(), sums.of + row);
    for (; row + 4 <= end; row += 4) multiply_some<4>(weight, pair, tile, from(), sums.of + row);
    for (; row < end; ++row) multiply_some<1>(weight, pair, tile, from(), sums.of + row);
  }
}

// Up to sixteen rows against some pairs of blocks and one tile of the depth.
template <int Pairs>
inline void multiply_tile(const Weight& weight, int64_t pair, int64_t tile, const int8_t* panel, int64_t count,
                          bool has_amx, Sums* sums) {
  const int8_t* rows = panel + tile * kPanelTile;
  if (Pairs > 1)
    for (int at = 0; at < kPanelTile; at += 64) __builtin_prefetch(rows + 2 * kPanelTile + at);
#ifdef SPARKGATE_AMX
  if (has_amx) return multiply_amx<Pairs>(weight, pair, tile, rows, sums);
#endif
  for (int at = 0; at < Pairs; ++at) multiply_plain(weight, pair + at, tile, rows, count, sums[at]);
}

// Sixteen sums of a row, still without its scale and the columns'. The whole number fits: a tile's high sums
// stay below 64 * 127 * 127.
inline Floats join(const int32_t* high, const int32_t* low) {
  static_assert(kTileDepth * 127 * 128 < (1 << 22), "the joined sums of a tile fit 32 bits");
  const Ints whole = (*reinterpret_cast<const Ints*>(high) << 8) + *reinterpret_cast<const Ints*>(low);
  return __builtin_convertvector(whole, Floats);
}

// Up to sixteen rows against some pairs of blocks; see `multiply`.
template <int Pairs, class Finish>
inline void multiply_panel(const Weight& weight, int64_t pair, const int8_t* panels, int64_t first_row, int64_t count,
                           bool has_amx, Finish& finish) {
  alignas(64) Sums sums[2][Pairs];  // those of a tile are multiplied while those of the one before are added up
  alignas(64) float totals[Pairs][kTileRows][32];
  const int8_t* panel = panels + row_offset(first_row, weight.padded_depth());
  std::memset(totals, 0, sizeof(totals));
  multiply_tile<Pairs>(weight, pair, 0, panel, count, has_amx, sums[0]);
  for (int64_t tile = 0; tile < weight.tiles; ++tile) {
    if (tile + 1 < weight.tiles)
      multiply_tile<Pairs>(weight, pair, tile + 1, panel, count, has_amx, sums[(tile + 1) % 2]);
    for (int at = 0; at < Pairs; ++at) {
      const float* scales = weight.scales + ((pair + at) * weight.tiles + tile) * 32;
      const Floats left = load(scales), right = load(scales + 16);
      for (int64_t row = 0; row < count; ++row) {
        const int32_t* high = sums[tile % 2][at].of[row];
        const int32_t* low = sums[tile % 2][at].of[row + kTileRows];
        float* total = totals[at][row];
        store(total, load(total) + join(high, low) * left);
        store(total + 16, load(total + 16) + join(high + 16, low + 16) * right);
      }
    }
  }
  for (int at = 0; at < Pairs; ++at)
    for (int64_t row = 0; row < count; ++row)
      finish(first_row + row, pair + at, load(totals[at][row]), load(totals[at][row] + 16));
}

// rows [num_rows] x weight, shared among the threads that come here, all of which leave together.
// `finish(row, pair, left, right)` gets the products of a row with the 32 columns of a pair of blocks, scaled but
// for the row's own scale; pairs before `first_wanted` are left out. Few rows wait for the weights, so that these are
// read once, from end to end; of many rows a panel is used for two pairs while it is at hand.
template <class Finish>
inline void multiply(const Weight& weight, const int8_t* panels, int64_t num_rows, bool has_amx, Finish finish,
                     int64_t first_wanted = 0) {
  constexpr int64_t kRowsAtOnce = 4 * kTileRows;
  const int64_t at_once = num_rows > kTileRows ? 2 : weight.num_pairs / 32 + 1;
#pragma omp for schedule(dynamic) collapse(2)
  for (int64_t first_pair = first_wanted; first_pair < weight.num_pairs; first_pair += at_once)
    for (int64_t first_row = 0; first_row < num_rows; first_row += kRowsAtOnce)
      for (int64_t row = first_row; row < num_rows && row < first_row + kRowsAtOnce; row += kTileRows) {
        const int64_t count = num_rows - row < kTileRows ? num_rows - row : kTileRows;
        int64_t pair = first_pair;
        const int64_t last_pair = pair + at_once < weight.num_pairs ? pair + at_once : weight.num_pairs;
        if (num_rows > kTileRows && last_pair - pair == 2)
          multiply_panel<2>(weight, pair, panels, row, count, has_amx, finish);
        else
          for (; pair < last_pair; ++pair) multiply_panel<1>(weight, pair, panels, row, count, has_amx, finish);
      }
}
