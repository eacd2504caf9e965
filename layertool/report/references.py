"""What is cited: a key, the words in a text, the entry of a list."""

from __future__ import annotations

REFERENCES = {
    "pasad2021": (
        "Pasad et al., 2021",
        "A. Pasad, J.-C. Chou, and K. Livescu. Layer-wise analysis of a self-supervised speech representation "
        "model. ASRU, 2021. arXiv:2107.04734.",
    ),
    "pasad2023": (
        "Pasad et al., 2023",
        "A. Pasad, B. Shi, and K. Livescu. Comparative layer-wise analysis of self-supervised speech models. "
        "ICASSP, 2023. arXiv:2211.03929.",
    ),
    "pasad2024": (
        "Pasad et al., 2024",
        "A. Pasad, C.-M. Chien, S. Settle, and K. Livescu. What do self-supervised speech models know about "
        "words? Transactions of the Association for Computational Linguistics, 12:372–391, 2024. arXiv:2307.00162.",
    ),
    "lin2024": (
        "Lin et al., 2024",
        "Y.-C. Lin, T.-Q. Lin, H.-C. Lin, A. T. Liu, and H.-Y. Lee. On the social bias of speech self-supervised "
        "models. Interspeech, 2024.",
    ),
    "slaughter2023": (
        "Slaughter et al., 2023",
        "I. Slaughter, C. Greenberg, R. Schwartz, and A. Caliskan. Pre-trained speech processing models contain "
        "human-like biases that propagate to speech emotion recognition. Findings of EMNLP, 2023.",
    ),
    "cuervo2024": (
        "Cuervo and Marxer, 2024",
        "S. Cuervo and R. Marxer. Transfer learning from Whisper for microscopic intelligibility prediction. "
        "Interspeech, 2024.",
    ),
    "radford2023": (
        "Radford et al., 2023",
        "A. Radford, J. W. Kim, T. Xu, G. Brockman, C. McLeavey, and I. Sutskever. Robust speech recognition via "
        "large-scale weak supervision. ICML, 2023.",
    ),
    "hotelling1936": (
        "Hotelling, 1936",
        "H. Hotelling. Relations between two sets of variates. Biometrika, 28(3/4):321–377, 1936.",
    ),
    "morcos2018": (
        "Morcos et al., 2018",
        "A. Morcos, M. Raghu, and S. Bengio. Insights on representational similarity in neural networks with "
        "canonical correlation. NeurIPS, 2018.",
    ),
    "raghu2017": (
        "Raghu et al., 2017",
        "M. Raghu, J. Gilmer, J. Yosinski, and J. Sohl-Dickstein. SVCCA: singular vector canonical correlation "
        "analysis for deep learning dynamics and interpretability. NeurIPS, 2017.",
    ),
    "kornblith2019": (
        "Kornblith et al., 2019",
        "S. Kornblith, M. Norouzi, H. Lee, and G. Hinton. Similarity of neural network representations "
        "revisited. ICML, 2019.",
    ),
    "song2012": (
        "Song et al., 2012",
        "L. Song, A. Smola, A. Gretton, J. Bedo, and K. Borgwardt. Feature selection via dependence "
        "maximization. Journal of Machine Learning Research, 13:1393–1434, 2012.",
    ),
    "nguyen2021": (
        "Nguyen et al., 2021",
        "T. Nguyen, M. Raghu, and S. Kornblith. Do wide and deep networks learn the same things? Uncovering how "
        "neural network representations vary with width and depth. ICLR, 2021.",
    ),
    "kriegeskorte2008": (
        "Kriegeskorte et al., 2008",
        "N. Kriegeskorte, M. Mur, and P. Bandettini. Representational similarity analysis: connecting the "
        "branches of systems neuroscience. Frontiers in Systems Neuroscience, 2:4, 2008.",
    ),
    "schonemann1966": (
        "Schönemann, 1966",
        "P. H. Schönemann. A generalized solution of the orthogonal Procrustes problem. Psychometrika, "
        "31(1):1–10, 1966.",
    ),
    "vinh2010": (
        "Vinh et al., 2010",
        "N. X. Vinh, J. Epps, and J. Bailey. Information theoretic measures for clusterings comparison: "
        "variants, properties, normalization and correction for chance. Journal of Machine Learning Research, "
        "11:2837–2854, 2010.",
    ),
    "benjamini1995": (
        "Benjamini and Hochberg, 1995",
        "Y. Benjamini and Y. Hochberg. Controlling the false discovery rate: a practical and powerful approach "
        "to multiple testing. Journal of the Royal Statistical Society B, 57(1):289–300, 1995.",
    ),
    "carlin2011": (
        "Carlin et al., 2011",
        "M. A. Carlin, S. Thomas, A. Jansen, and H. Hermansky. Rapid evaluation of speech representations for "
        "spoken term discovery. Interspeech, 2011.",
    ),
    "rasanen2009": (
        "Räsänen et al., 2009",
        "O. Räsänen, U. K. Laine, and T. Altosaar. An improved speech segmentation quality measure: the R-value. "
        "Interspeech, 2009.",
    ),
    "merkx2021": (
        "Merkx et al., 2021",
        "D. Merkx, S. L. Frank, and M. Ernestus. Semantic sentence similarity: size does not always matter. "
        "Interspeech, 2021.",
    ),
    "graves2006": (
        "Graves et al., 2006",
        "A. Graves, S. Fernández, F. Gomez, and J. Schmidhuber. Connectionist temporal classification: labelling "
        "unsegmented sequence data with recurrent neural networks. ICML, 2006.",
    ),
    "yang2021": (
        "Yang et al., 2021",
        "S.-w. Yang et al. SUPERB: Speech processing universal performance benchmark. Interspeech, 2021.",
    ),
    "lin2022": (
        "Lin et al., 2022",
        "T.-Q. Lin, H.-Y. Lee, and H. Tang. MelHuBERT: a simplified HuBERT on Mel spectrograms. "
        "arXiv:2211.09944, 2022.",
    ),
    "hsu2021": (
        "Hsu et al., 2021",
        "W.-N. Hsu, B. Bolte, Y.-H. H. Tsai, K. Lakhotia, R. Salakhutdinov, and A. Mohamed. HuBERT: "
        "self-supervised speech representation learning by masked prediction of hidden units. IEEE/ACM "
        "Transactions on Audio, Speech, and Language Processing, 29:3451–3460, 2021.",
    ),
    "baevski2020": (
        "Baevski et al., 2020",
        "A. Baevski, Y. Zhou, A. Mohamed, and M. Auli. wav2vec 2.0: a framework for self-supervised learning of "
        "speech representations. NeurIPS, 2020.",
    ),
    "chang2022": (
        "Chang et al., 2022",
        "H.-J. Chang, S.-w. Yang, and H.-Y. Lee. DistilHuBERT: speech representation learning by layer-wise "
        "distillation of hidden-unit BERT. ICASSP, 2022.",
    ),
}


def cited(*keys: str) -> str:
    """The words of a citation: (Pasad et al., 2021; Lin et al., 2024). What is no key stands as it is."""
    return f"({'; '.join(REFERENCES[key][0] if key in REFERENCES else key for key in keys)})"


def entries(methods: str) -> list[str]:
    """The entries of what a text cites, in the order of the alphabet."""
    return sorted(entry for words, entry in REFERENCES.values() if words in methods)
