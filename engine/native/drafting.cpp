// A round of a DSpark or DFlash drafter in W8A16: context taken in, a block drafted, its slots linked and chosen.
//
// See `engine/drafters/dspark.py` for what is computed, which this follows but for the number format. The C
// functions at the end are all that Python sees. No sequence's drafts depend on the sequences beside it.
#include "decoder.h"

namespace {

constexpr float kGreedyBelow = 1e-5f;  // temperatures under this mean the most likely token
constexpr int64_t kSummedTogether = 256;

struct DraftParts {
  int64_t width, num_slots, mask_token, num_features, rank;  // rank 0: no Markov head
  const int64_t* vocabulary;                                 // [V] target ids; null: the target's own
  const float* feature_norm;                                 // [hidden]
  const uint16_t* markov_rows;                               // [tokens, rank] bfloat16
  const float* confidence;                                   // [confidence_size], hidden then rank; null: none
  int64_t confidence_size;
  double confidence_bias;
};

struct ContextStep {
  int64_t num_rows;
  const uint16_t* features;           // [rows, num_features] bfloat16
  const int64_t *positions, *slots;   // [rows]
  uint16_t* const* cache;             // [layers], blocks as attention.h reads them
};

struct DraftStep {
  int64_t num_sequences, num_blocks;
  const int64_t *anchors, *starts;    // [sequences]
  const int64_t* block_ids;           // [sequences, num_blocks]
  const float* temperatures;          // [sequences]; null: all greedy, and no probabilities are wanted
  const double* uniforms;             // [sequences, slots]
  const uint16_t* const* cache;       // [layers]
  int64_t* token_ids;                 // [sequences, slots] of the target's vocabulary
  float *token_probs, *draft_probs;   // [sequences, slots], [sequences, slots, V]
  float* confidence;                  // [sequences, slots]
};

struct BlockDrafter : Decoder {
  DraftParts own;
  std::vector<float> feature_norm;
  Weight features, biases;  // of the target's layers -> hidden; rank -> V

  BlockDrafter(const Parts& parts, const DraftParts& draft_parts)
      : Decoder(parts), own(draft_parts), feature_norm(own.feature_norm, own.feature_norm + hidden) {}
  void extend(const ContextStep& step);
  void propose(const DraftStep& step);

 private:
  std::vector<int64_t> token_ids, positions, slots, last_seen, previous;
  std::vector<uint16_t> tails;  // of each sequence: the blocks that begin with the last one of its context
  std::vector<float> codes;     // [sequences, rank] Markov embeddings of the tokens before a slot
  std::vector<float> logits;    // [sequences, slots, stride()]

  int64_t stride() const { return head.num_pairs * 32; }
  int64_t tail_blocks() const { return (kBlockTokens - 1 + own.width + kBlockTokens - 1) / kBlockTokens; }
  void lay_out(const DraftStep& step);
  void copy_tails(const DraftStep& step, const uint16_t* cache);
  void compute_logits(int64_t num_sequences);
  void add_biases(int64_t num_sequences, int64_t slot);
  int64_t choose(const DraftStep& step, int64_t index, int64_t slot);
  int64_t most_likely(const float* row, float* peak) const;
  int64_t draw(float* row, float peak, float temperature, double point) const;
  float confidence_of(int64_t index, int64_t slot) const;
};

// Of each layer the keys and values of what the target computed.
void BlockDrafter::extend(const ContextStep& step) {
  const int64_t count = step.num_rows, depth = own.num_features;
  grow_buffers(count, depth);
#pragma omp parallel
  {
#ifdef SPARKGATE_AMX
    if (has_amx) shape_tiles(false);
#endif
    std::vector<float> wide(depth);
#pragma omp for
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t at = 0; at < depth; at += kLanes)
        store(&wide[at], load_bfloat16(step.features + row * depth + at));
      scales[row] = quantise(wide.data(), depth, row, features.padded_depth(), bytes.data());
    }
    put_product(features, count, stream.data());
    norm_and_quantise(count, feature_norm);
    const int64_t all_heads = heads.num_heads * heads.head_dim;
    for (size_t index = 0; index < layers.size(); ++index) {
      const Weight& qkv = layers[index]->qkv;
      put_product(qkv, count, fused.data(), all_heads / 32);  // keys and values alone
#pragma omp for
      for (int64_t row = 0; row < count; ++row)
        store_key_value(*layers[index], &fused[row * qkv.columns + all_heads], step.positions[row], step.slots[row],
                        step.cache[index]);
    }
#ifdef SPARKGATE_AMX
    if (has_amx) _tile_release();
#endif
  }
}

// A block's rows see the context and each other. Their keys and values follow a copy of the context's last block.
void BlockDrafter::lay_out(const DraftStep& step) {
  const int64_t count = step.num_sequences * own.width;
  grow_buffers(count, own.rank);
  for (auto* buffer : {&token_ids, &positions, &slots, &last_seen}) grow(*buffer, count);
  grow(previous, step.num_sequences);
  grow(codes, step.num_sequences * own.rank);
  grow(tails, step.num_sequences * tail_blocks() * heads.block_size());
  grow(logits, step.num_sequences * own.num_slots * stride());
  tasks.clear();
  for (int64_t index = 0; index < step.num_sequences; ++index) {
    const int64_t start = step.starts[index], first_block = index * tail_blocks();
    previous[index] = step.anchors[index];
    for (int64_t at = 0; at < own.width; ++at) {
      const int64_t row = index * own.width + at;
      token_ids[row] = at == 0 ? step.anchors[index] : own.mask_token;
      positions[row] = start + at;
      slots[row] = first_block * kBlockTokens + start % kBlockTokens + at;
      last_seen[row] = start + own.width - 1;
    }
    list_tasks(index * own.width, own.width,
               {step.block_ids + index * step.num_blocks, start / kBlockTokens,
                &tails[first_block * heads.block_size()]});
  }
}

void BlockDrafter::copy_tails(const DraftStep& step, const uint16_t* cache) {
#pragma omp for
  for (int64_t index = 0; index < step.num_sequences; ++index) {
    const int64_t start = step.starts[index], size = heads.block_size();
    if (start % kBlockTokens == 0) continue;
    const int64_t block = step.block_ids[index * step.num_blocks + start / kBlockTokens];
    std::memcpy(&tails[index * tail_blocks() * size], cache + block * size, size * sizeof(uint16_t));
  }
}

// Those of the slots that predict, which are the last of each block; columns that do not exist are never chosen.
void BlockDrafter::compute_logits(int64_t num_sequences) {
  const int64_t count = num_sequences * own.num_slots;
#pragma omp for
  for (int64_t at = 0; at < count; ++at) {
    const int64_t row = at / own.num_slots * own.width + own.width - own.num_slots + at % own.num_slots;
    norm_row(&stream[row * hidden], final_norm, &normed[at * hidden]);
    scales[at] = quantise(&normed[at * hidden], hidden, at, head.padded_depth(), bytes.data());
  }
  multiply(head, bytes.data(), count, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &logits[row * stride() + pair * 32];
    store(to, left * scales[row]);
    store(to + 16, right * scales[row]);
    for (int64_t at = head.columns - pair * 32; at < 32; ++at) to[at] = -INFINITY;
  });
}

// What the tokens of the slot before make likelier or less likely.
void BlockDrafter::add_biases(int64_t num_sequences, int64_t slot) {
#pragma omp for
  for (int64_t index = 0; index < num_sequences; ++index) {
    float* code = &codes[index * own.rank];
    for (int64_t at = 0; at < own.rank; at += kLanes)
      store(code + at, load_bfloat16(own.markov_rows + previous[index] * own.rank + at));
    scales[index] = quantise(code, own.rank, index, biases.padded_depth(), bytes.data());
  }
  multiply(biases, bytes.data(), num_sequences, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &logits[(row * own.num_slots + slot) * stride() + pair * 32];
    store(to, load(to) + left * scales[row]);
    store(to + 16, load(to + 16) + right * scales[row]);
  });
}

// The first column of the largest logit.
int64_t BlockDrafter::most_likely(const float* row, float* peak) const {
  Floats best = spread(-INFINITY);
  Ints where = Ints{};
  for (int64_t at = 0; at < stride(); at += kLanes) {
    const Floats values = load(row + at);
    const Ints is_better = values > best;
    where = is_better ? Ints{} + static_cast<int>(at) : where;
    best = is_better ? values : best;
  }
  *peak = largest(best);
  int64_t first = head.columns;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if (best[lane] == *peak && where[lane] + lane < first) first = where[lane] + lane;
  return first < head.columns ? first : 0;
}

// Makes probabilities of the logits, and draws by inversion from these very numbers, summed in double.
int64_t BlockDrafter::draw(float* row, float peak, float temperature, double point) const {
  Floats total = Floats{};
  for (int64_t at = 0; at < stride(); at += kLanes) {
    const Floats weights = exponential((load(row + at) - peak) / temperature);
    store(row + at, weights);
    total += weights;
  }
  const float factor = 1.0f / sum(total);
  for (int64_t at = 0; at < stride(); at += kLanes) store(row + at, load(row + at) * factor);
  auto mass = [&](int64_t first) {
    Floats some = Floats{};
    for (int64_t at = first; at < first + kSummedTogether && at < stride(); at += kLanes) some += load(row + at);
    return static_cast<double>(sum(some));
  };
  double all = 0.0, here = 0.0;
  for (int64_t first = 0; first < stride(); first += kSummedTogether) all += mass(first);
  double rest = point * all;
  int64_t block = 0;
  for (int64_t first = 0; first < stride(); first += kSummedTogether) {
    const double some = mass(first);
    if (!(some > 0.0)) continue;
    block = first, here = some;
    if (rest < some) break;
    rest -= some;
  }
  const int64_t end = block + kSummedTogether < head.columns ? block + kSummedTogether : head.columns;
  double exact = 0.0, upto = 0.0;
  for (int64_t at = block; at < end; ++at) exact += row[at];
  int64_t chosen = block;
  for (int64_t at = block; at < end; ++at) {
    if (!(row[at] > 0.0f)) continue;
    chosen = at, upto += row[at];
    if (rest / here * exact < upto) break;
  }
  return chosen;
}

// A column for the slot, and the distribution it was drawn from where one is wanted.
int64_t BlockDrafter::choose(const DraftStep& step, int64_t index, int64_t slot) {
  const int64_t at = index * own.num_slots + slot;
  float *row = &logits[at * stride()], peak;
  int64_t column = most_likely(row, &peak);
  if (step.temperatures == nullptr) return column;
  float* probs = step.draft_probs + at * head.columns;
  if (step.temperatures[index] < kGreedyBelow) {
    std::memset(probs, 0, head.columns * sizeof(float));
    probs[column] = 1.0f;
  } else {
    column = draw(row, peak, step.temperatures[index], step.uniforms[at]);
    std::memcpy(probs, row, head.columns * sizeof(float));
  }
  step.token_probs[at] = probs[column];
  return column;
}

// The logit of "passes if those before it do", which does not see the slot's own token.
float BlockDrafter::confidence_of(int64_t index, int64_t slot) const {
  const float* state = &normed[(index * own.num_slots + slot) * hidden];
  const float* code = codes.data() + index * own.rank;
  Floats total = Floats{};
  for (int64_t at = 0; at < hidden; at += kLanes) total += load(state + at) * load(own.confidence + at);
  for (int64_t at = hidden; at < own.confidence_size; at += kLanes)
    total += load(code + at - hidden) * load(own.confidence + at);
  return sum(total) + static_cast<float>(own.confidence_bias);
}

void BlockDrafter::propose(const DraftStep& step) {
  lay_out(step);
  const int64_t count = step.num_sequences;
  const Rows rows{count * own.width, positions.data(), slots.data(), last_seen.data()};
#pragma omp parallel
  {
#ifdef SPARKGATE_AMX
    if (has_amx) shape_tiles(false);
#endif
    embed(token_ids.data(), rows.count);
    for (size_t index = 0; index < layers.size(); ++index) {
      copy_tails(step, step.cache[index]);
      run_layer(*layers[index], rows, step.cache[index], tails.data());
    }
    compute_logits(count);
    for (int64_t slot = 0; slot < own.num_slots; ++slot) {
      if (own.rank > 0) add_biases(count, slot);
#pragma omp for
      for (int64_t index = 0; index < count; ++index) {
        const int64_t at = index * own.num_slots + slot, column = choose(step, index, slot);
        if (own.confidence != nullptr) step.confidence[at] = confidence_of(index, slot);
        previous[index] = step.token_ids[at] = own.vocabulary == nullptr ? column : own.vocabulary[column];
      }
    }
#ifdef SPARKGATE_AMX
    if (has_amx) _tile_release();
#endif
  }
}

}  // namespace

extern "C" {

BlockDrafter* sparkgate_new_drafter(const Parts* parts, const DraftParts* draft_parts) {
  return new BlockDrafter(*parts, *draft_parts);
}

void sparkgate_free_drafter(BlockDrafter* drafter) { delete drafter; }

// `which`: 0 features, 1 Markov biases; source [columns, depth].
void sparkgate_set_draft_weight(BlockDrafter* drafter, int which, const float* source, int64_t columns,
                                int64_t depth) {
  (which == 0 ? drafter->features : drafter->biases).set(source, columns, depth, nullptr);
}

void sparkgate_extend(BlockDrafter* drafter, const ContextStep* step) { drafter->extend(*step); }

void sparkgate_propose(BlockDrafter* drafter, const DraftStep* step) { drafter->propose(*step); }

}
